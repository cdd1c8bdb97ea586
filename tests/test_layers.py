"""The house rules that no linter holds: what the import checks see, and how long code may get."""

import ast
import pathlib

import grimp
import pytest

ROOT = pathlib.Path(__file__).parents[1]
CODE = ("agents", "configs", "envs", "examples", "loopwm")
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 80


def sources():
    # rglob does not follow the links in loopwm/, so each file comes once.
    return sorted(path for folder in CODE for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("folder", ["agents", "configs", "envs"])
def test_import_checks_see_the_linked_folders(folder):
    graph = grimp.build_graph("loopwm", cache_dir=None)
    expected = {
        ".".join(("loopwm", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(
            ".__init__"
        )
        for path in (ROOT / folder).rglob("*.py")
    }
    assert expected
    assert expected <= graph.modules


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_short(path):
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_FILE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno + 1 <= MAX_FUNCTION_LINES, node.name
