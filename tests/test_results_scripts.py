"""The scripts behind the pages of results still fit the package: each says what it does."""

import pathlib
import runpy
import sys

import gymnasium as gym
import pytest

FOLDER = pathlib.Path(__file__).parent.parent / "docs" / "results"
SCRIPTS = [path for path in sorted(FOLDER.glob("*.py")) if '"__main__"' in path.read_text()]


@pytest.fixture
def registry_as_it_was():
    """Takes back what a script registers."""
    known = set(gym.registry)
    yield
    for name in set(gym.registry) - known:
        del gym.registry[name]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
@pytest.mark.usefixtures("registry_as_it_was")
def test_a_script_loads_and_says_what_it_does(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    monkeypatch.syspath_prepend(str(FOLDER))
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert not ended.value.code
    assert "usage:" in capsys.readouterr().out
