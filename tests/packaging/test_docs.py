"""The pages of docs/ with the reference of the public names, as `make docs` builds them."""

import importlib
import inspect
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PACKAGES = """
    loopwm loopwm.stability loopwm.nn loopwm.core loopwm.models loopwm.planning loopwm.agents
    loopwm.envs loopwm.training loopwm.evaluation loopwm.evaluation.compare loopwm.comparison
    loopwm.errors
""".split()


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The reference's page; no warning was given in building it."""
    out = tmp_path_factory.mktemp("docs")
    words = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--quiet", "docs", str(out)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return (out / "reference.html").read_text()


@pytest.mark.parametrize("name", PACKAGES)
def test_every_public_function_and_class_is_in_the_reference(reference, name):
    module = importlib.import_module(name)
    public = getattr(module, "__all__", [n for n in vars(module) if not n.startswith("_")])
    members = {n: getattr(module, n) for n in public}
    described = {
        n
        for n, member in members.items()
        if inspect.isclass(member) or inspect.isfunction(member)
        if member.__module__.startswith("loopwm")
    }
    assert described
    assert {n for n in described if f'id="{name}.{n}"' not in reference} == set()


def test_formulas_and_code_of_docstrings_are_told_apart(reference):
    page = re.sub(r"<[^>]+>", "", reference[reference.index('id="loopwm.planning.ICEM"') :])
    assert r"\(N_i = \max(N \gamma^{-i}, 2E)\)" in page[:2_000]
    assert r"\[u = \mathrm{clip}" in page[:2_000] and "$" not in page[:2_000]
