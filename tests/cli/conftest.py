"""The command line looks for modules in the current folder; forget that after each test."""

import sys

import pytest


@pytest.fixture(autouse=True)
def own_search_path(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
