"""Files of a comparison: whole, or found out not to be."""

import json

import pytest

from loopwm.errors import UsageError
from loopwm.evaluation.compare.cells import Cell, Record, Status, fingerprint, plain
from loopwm.evaluation.compare.store import Damaged, Folder, read_checked, write_checked

CELL = Cell("debug", "loopwm/SlidingIce-v0", "gru", 4_000, 3)
RECORD = Record(CELL, Status.DONE, "abc", measures={"error": 0.5, "nrmse": {"1": None}})


@pytest.fixture
def folder(tmp_path):
    said = []
    found = Folder(tmp_path / "out", said.append)
    found.open({"suite": "debug"})
    return found, said


def test_what_is_written_is_read(tmp_path):
    write_checked(tmp_path / "a" / "b.json", {"x": (1, float("nan")), "y": Status.DONE})
    assert read_checked(tmp_path / "a" / "b.json") == {"x": [1, None], "y": "done"}
    assert read_checked(tmp_path / "none.json") is None
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_half_a_file_is_found_out(tmp_path, share):
    path = tmp_path / "cell.json"
    write_checked(path, {"x": list(range(50))})
    text = path.read_text()
    path.write_text(text[: int(share * len(text))])
    with pytest.raises(Damaged):
        read_checked(path)


@pytest.mark.parametrize("text", ["[]", "3", '{"content": {}}', '{"checksum": "0", "content": {}}'])
def test_a_changed_file_is_found_out(tmp_path, text):
    (tmp_path / "cell.json").write_text(text)
    with pytest.raises(Damaged):
        read_checked(tmp_path / "cell.json")


def test_finished_cells_are_kept_under_their_settings(folder):
    store, said = folder
    assert store.finished(CELL, "abc") is None
    store.keep(RECORD)
    assert store.finished(CELL, "abc") == RECORD
    assert store.finished(CELL, "other") is None
    assert not said


@pytest.mark.parametrize("status", list(Status))
def test_only_what_was_measured_or_diverged_is_not_tried_again(folder, status):
    store, _ = folder
    store.keep(Record(CELL, status, "abc", sentence="why"))
    kept = status in (Status.DONE, Status.DIVERGED)
    assert (store.finished(CELL, "abc") is not None) == kept


def test_half_a_cell_is_said_and_done_again(folder, assert_helpful):
    store, said = folder
    store.keep(RECORD)
    (path,) = (store.path / "cells").iterdir()
    path.write_text(path.read_text()[:-40])
    assert store.finished(CELL, "abc") is None
    (sentence,) = said
    assert path.name in sentence and "done again" in sentence and sentence.endswith(".")


def test_a_folder_is_gone_on_in_with_the_same_settings(folder):
    store, _ = folder
    store.open({"suite": "debug"})
    assert json.loads(store.settings_file.read_text())["content"] == {"suite": "debug"}


def test_folders_that_are_refused(folder, tmp_path, assert_helpful):
    store, _ = folder
    (tmp_path / "file").write_text("mine")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("mine")
    (tmp_path / "closed").write_text("")
    for path, settings, said in (
        (store.path, {"suite": "dynamics"}, "suite was debug, now dynamics"),
        (tmp_path / "file", {}, "is a file"),
        (tmp_path / "other", {}, "something else"),
        (tmp_path / "file" / "below", {}, "cannot be written"),
    ):
        with pytest.raises(UsageError, match=said) as raised:
            Folder(path, print).open(settings)
        assert_helpful(raised)


def test_a_folder_is_for_one_comparison_at_a_time(folder, assert_helpful):
    store, _ = folder
    second = Folder(store.path, print)
    with store.alone():
        # Another process has a descriptor of its own too.
        with pytest.raises(UsageError, match="Another comparison runs") as raised, second.alone():
            pass
        assert_helpful(raised)
    with second.alone():
        pass


def test_records_are_plain_data():
    assert Record.of(json.loads(json.dumps(RECORD.content()))) == RECORD
    assert CELL.name == "loopwm-SlidingIce-v0.gru.4000.seed3"


def test_fingerprints_follow_the_settings():
    assert fingerprint({"a": 1, "b": (2,)}) == fingerprint({"b": [2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert plain({1: float("inf")}) == {"1": None}
