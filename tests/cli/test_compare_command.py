"""`loopwm compare`, with jobs that train nothing."""

import json

import pytest
from comparisons import CountingBackend, answer

from loopwm.cli.main import main
from loopwm.comparison import choose
from loopwm.evaluation.compare import report


@pytest.fixture
def counting(monkeypatch):
    """Jobs are answered at once, and counted."""
    backend = CountingBackend(answer)
    monkeypatch.setattr(report, "_figures", lambda _: {})
    monkeypatch.setattr(choose, "LocalBackend", lambda _: backend)
    return backend


def compare(out, *arguments):
    words = ["--models", "looped", "gru", "--sizes", "2000", "8000", "--seeds", "2"]
    return main(["compare", "debug", *words, "--out", str(out), *arguments])


def test_json_is_the_summary(counting, tmp_path, capsys):
    assert compare(tmp_path / "out", "--json", "--jobs", "2") == 0
    shown = capsys.readouterr()
    summary = json.loads(shown.out)
    assert summary == json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["cells"] == {"done": 8} and len(counting.cells) == 8
    assert "8/8" in shown.err


def test_verdict_and_report_are_named(counting, tmp_path, capsys):
    assert compare(tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert "nothing in it is evidence" in said and f"Report: {tmp_path / 'out'}" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing"], "no suite 'nothing'"),
        (["debug", "--models", "mlp"], "no family 'mlp'"),
        (["debug", "--tasks", "Acrobat-v1"], "no task 'Acrobat-v1'"),
        (["debug", "--sizes", "-5"], "--sizes has -5"),
        (["debug", "--sizes", "2"], "No family can be built"),
        (["debug", "--seeds", "0"], "--seeds is 0"),
        (["debug", "--jobs", "0"], "--jobs is 0"),
        (["debug", "--backend", "slurm"], "no backend 'slurm'"),
        (["debug", "--out", "file"], "is a file"),
        (["debug", "--out", "folder"], "something else"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else None,
)
def test_bad_input_is_one_sentence(in_tmp, capsys, assert_helpful, words, said):
    (in_tmp / "file").write_text("mine")
    (in_tmp / "folder").mkdir()
    (in_tmp / "folder" / "mine").write_text("mine")
    assert main(["compare", *words]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and said in shown.err
    assert_helpful(shown.err.strip().removeprefix("loopwm: "))
    assert {p.name for p in in_tmp.iterdir()} == {"file", "folder"}
