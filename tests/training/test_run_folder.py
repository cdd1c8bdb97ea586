"""A run's folder: refused when used, and no file is ever half-written."""

import errno
import os

import pytest
import yaml

from loopwm import settings
from loopwm.errors import UsageError
from loopwm.run import resolve_config
from loopwm.training import RunFolder, run_folder
from loopwm.training.run_folder import read_yaml, write_text

CONFIG = resolve_config("CartPole-v1", config="debug")


def test_a_new_folder_holds_the_resolved_configuration(tmp_path):
    folder = RunFolder.create(tmp_path / "deep" / "run", CONFIG)
    assert sorted(p.name for p in folder.path.iterdir()) == [
        "checkpoints",
        "config.yaml",
        "evals.jsonl",
        "replay",
        "videos",
    ]
    assert RunFolder.open(folder.path).read_config() == CONFIG
    values = yaml.safe_load(folder.config_file.read_text())
    assert values["learner"]["discount"] == CONFIG.learner.discount  # defaults are written too


def test_an_empty_folder_may_be_used(tmp_path):
    RunFolder.create(tmp_path, CONFIG)


@pytest.mark.parametrize("what", ["a file in it", "a run", "a file"])
def test_a_used_folder_is_refused_and_left_alone(tmp_path, what, assert_helpful):
    path = tmp_path / "run"
    if what == "a run":
        RunFolder.create(path, CONFIG)
    elif what == "a file":
        path.write_text("mine")
    else:
        path.mkdir()
        (path / "notes.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match="already used") as raised:
        RunFolder.create(path, CONFIG)
    assert str(path) in str(raised.value) and "--out" in str(raised.value)
    assert_helpful(raised)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_could_not_be_finished_is_not_left_behind(tmp_path, monkeypatch):
    def full(path, text):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(run_folder, "write_text", full)
        with pytest.raises(UsageError, match="No space left"):
            RunFolder.create(tmp_path / "run", CONFIG)
    # Where there is space again, the same command works.
    RunFolder.create(tmp_path / "run", CONFIG)


def test_a_folder_below_a_file_is_refused(tmp_path, assert_helpful):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written") as raised:
        RunFolder.create(tmp_path / "file" / "run", CONFIG)
    assert_helpful(raised)


@pytest.mark.parametrize("what", ["nothing", "an empty folder", "a file"])
def test_what_is_no_run_is_refused(tmp_path, what, assert_helpful):
    path = tmp_path / "run"
    if what == "an empty folder":
        path.mkdir()
    elif what == "a file":
        path.write_text("")
    with pytest.raises(UsageError, match="no loopwm run") as raised:
        RunFolder.open(path)
    assert_helpful(raised)


@pytest.mark.parametrize(
    "text",
    [
        "hydra: {run: x}",
        "seed: one",
        "- a\n- b",
        "{",
        "model: 5",
        "steps: -1",
        "steps: 2026-13-45",
        b"\xff\xfe\x00",
    ],
)
def test_a_foreign_configuration_is_refused_by_name(tmp_path, text, assert_helpful):
    content = text if isinstance(text, bytes) else text.encode()
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(UsageError) as raised:
        RunFolder.open(tmp_path).read_config()
    assert str(tmp_path / "config.yaml") in str(raised.value)
    assert "\n" not in str(raised.value)


def test_evaluations_are_appended_and_cut(tmp_path):
    folder = RunFolder.create(tmp_path, CONFIG)
    assert folder.read_evals() == []
    records = [{"env_steps": steps, "return_mean": 0.1 * steps} for steps in (50, 100, 150)]
    for record in records:
        folder.append_eval(record)
    assert folder.read_evals() == records
    assert folder.read_evals(up_to=100) == records[:2]
    whole = folder.evals_file.read_bytes()
    # A kill in the middle of a line, and what else a disk may hold.
    for half in (b'{"env_steps": 20', b"\xff\xfe", b"20", b"{}"):
        folder.evals_file.write_bytes(whole + half)
        assert folder.read_evals() == records
    folder.rewrite_evals(records[:1])
    assert folder.evals_file.read_text().count("\n") == 1
    assert folder.read_evals() == records[:1]


def test_a_reader_sees_the_old_text_or_the_new(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    write_text(path, "old")

    def die(*_args):
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", die)
        with pytest.raises(SystemExit):
            write_text(path, "new")
    assert path.read_text() == "old"
    write_text(path, "new")
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]


def test_an_empty_file_of_settings_is_the_defaults(tmp_path):
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert read_yaml(tmp_path / "empty.yaml") == {}


def test_settings_go_round_through_yaml(tmp_path):
    changed = resolve_config(
        "Pendulum-v1", config="debug", overrides={"model": {"core": {"width": 5}}}, seed=9, steps=11
    )
    text = yaml.safe_dump(settings.dump(changed))
    assert settings.build(type(changed), yaml.safe_load(text)) == changed
