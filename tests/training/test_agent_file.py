"""Agents in files of their own: the same agent again, every fault a sentence."""

import dataclasses
import json

import numpy as np
import pytest

import loopwm
from loopwm import pretrained
from loopwm.cli.main import main
from loopwm.errors import RunFailure, UsageError
from loopwm.run import evaluate_run
from loopwm.training.agent_file import (
    better_clause,
    drop_best_after,
    keep_best,
    read_agent,
    write_agent,
)
from loopwm.training.run_folder import RunFolder


def test_a_file_acts_as_the_run_does(cartpole_run, tmp_path, capsys):
    file = tmp_path / "agent.npz"
    assert main(["export", str(cartpole_run.path), str(file)]) == 0
    assert str(file) in capsys.readouterr().out
    own, its = (evaluate_run(source, episodes=2) for source in (cartpole_run.path, file))
    assert {**own, "decision_ms": 0} == {**its, "decision_ms": 0}
    names = set(read_agent(file).arrays)
    assert names and all(n.startswith(("learner.networks.", "normalizer.")) for n in names)
    assert [path.name for path in tmp_path.iterdir()] == ["agent.npz"]


def test_the_average_is_what_is_kept_where_there_is_one(cartpole_run, tmp_path):
    saved = read_agent(cartpole_run.path)
    learner = dataclasses.replace(saved.config.learner, average_rate=0.5)
    arrays = {
        name.replace(".networks.", ".average."): array + (name[-1] == "x")
        for name, array in saved.arrays.items()
    }
    averaged = dataclasses.replace(
        saved, config=dataclasses.replace(saved.config, learner=learner), arrays=arrays
    )
    write_agent(averaged, tmp_path / "agent.npz")
    assert any(".average." in name for name in read_agent(tmp_path / "agent.npz").arrays)
    assert loopwm.load(tmp_path / "agent.npz").networks is not None


def test_the_repeats_of_its_actions_are_kept(cartpole_run, tmp_path):
    saved = read_agent(cartpole_run.path)
    config = dataclasses.replace(saved.config, action_repeat=4)
    write_agent(dataclasses.replace(saved, config=config), tmp_path / "agent.npz")
    assert read_agent(tmp_path / "agent.npz").config.action_repeat == 4


def test_what_is_there_stays(cartpole_run, tmp_path, assert_helpful):
    (tmp_path / "agent.npz").write_text("mine")
    with pytest.raises(UsageError, match="exists already") as error:
        loopwm.export(cartpole_run.path, tmp_path / "agent.npz")
    assert_helpful(str(error.value))
    assert (tmp_path / "agent.npz").read_text() == "mine"
    with pytest.raises(UsageError, match="cannot be written") as error:
        loopwm.export(cartpole_run.path, tmp_path / "none" / "agent.npz")
    assert_helpful(str(error.value))


def test_a_run_keeps_the_agent_of_its_best_evaluation(cartpole_run):
    best = max(record["return_mean"] for record in cartpole_run.evals)
    steps = [r["env_steps"] for r in cartpole_run.evals if r["return_mean"] == best]
    kept = read_agent(cartpole_run.path / "best.npz")
    assert kept.env_steps == steps[-1]
    last = read_agent(cartpole_run.path)
    same = all(np.array_equal(array, last.arrays[name]) for name, array in kept.arrays.items())
    assert same == (kept.env_steps == last.env_steps)


def test_only_a_better_or_newer_agent_takes_the_place_of_the_best(cartpole_run, tmp_path):
    saved, folder = read_agent(cartpole_run.path), RunFolder(tmp_path)
    kept = []
    for number, mean in enumerate((3.0, 1.0, 3.0, 2.0, 4.0)):
        keep_best(dataclasses.replace(saved, env_steps=number), folder, mean)
        folder.append_eval({"env_steps": number, "return_mean": mean})
        kept.append(read_agent(folder.best_file).env_steps)
    assert kept == [0, 0, 2, 2, 4]
    assert not list(tmp_path.glob("*.tmp"))


def test_the_best_agent_is_told_of_where_it_is_not_the_last(cartpole_run, tmp_path):
    saved, folder = read_agent(cartpole_run.path), RunFolder(tmp_path)
    lines = []
    for number, mean in enumerate((1.0, 3.0, 2.0, 3.0)):
        keep_best(dataclasses.replace(saved, env_steps=number), folder, mean)
        folder.append_eval({"env_steps": number, "return_mean": mean})
        lines.append(better_clause(folder))
    assert [line == "" for line in lines] == [True, True, False, True]
    assert all(part in lines[2] for part in ("2.0", "3.0", "env step 1", str(folder.best_file)))


def test_an_evaluation_that_is_taken_back_takes_its_agent_along(cartpole_run, tmp_path):
    saved, folder = read_agent(cartpole_run.path), RunFolder(tmp_path)
    keep_best(dataclasses.replace(saved, env_steps=2), folder, 3.0)
    folder.append_eval({"env_steps": 1, "return_mean": 2.0})  # that of env step 2 is lost
    drop_best_after(folder, 2)
    assert folder.best_file.is_file()
    drop_best_after(folder, 1)
    assert not folder.best_file.is_file() and better_clause(folder) == ""
    keep_best(dataclasses.replace(saved, env_steps=2), folder, 1.0)
    assert read_agent(folder.best_file).env_steps == 2
    folder.best_file.write_bytes(b"half")
    drop_best_after(folder, 2)
    assert not folder.best_file.is_file()


def test_a_disk_that_is_full_is_told(cartpole_run, tmp_path, assert_helpful):
    folder = RunFolder(tmp_path)
    folder.best_file.mkdir()  # cannot be replaced by a file
    with pytest.raises(RunFailure, match="could not be written") as error:
        keep_best(read_agent(cartpole_run.path), folder, 1.0)
    assert_helpful(str(error.value))
    assert not list(tmp_path.glob("*.tmp"))


def damaged(kind, whole):
    if kind == "text":
        return b"nothing of the kind"
    return whole[: len(whole) // 2] if kind == "half" else b""


@pytest.mark.parametrize("kind", ["text", "half", "empty"])
def test_damaged_files_are_a_sentence(kind, cartpole_run, tmp_path, assert_helpful):
    loopwm.export(cartpole_run.path, tmp_path / "whole.npz")
    bad = tmp_path / "bad.npz"
    bad.write_bytes(damaged(kind, (tmp_path / "whole.npz").read_bytes()))
    with pytest.raises(UsageError, match="is no agent's file") as error:
        loopwm.load(bad)
    assert_helpful(str(error.value))


def test_other_archives_and_other_versions_are_a_sentence(cartpole_run, tmp_path, assert_helpful):
    np.savez(tmp_path / "other.npz", x=np.zeros(2))
    with pytest.raises(UsageError, match="is no agent's file") as error:
        read_agent(tmp_path / "other.npz")
    assert_helpful(str(error.value))
    about = json.dumps({"config": {"novelty": 1}, "env_steps": 1}).encode()
    np.savez(tmp_path / "later.npz", about=np.frombuffer(about, np.uint8))
    with pytest.raises(UsageError, match="another version of loopwm") as error:
        read_agent(tmp_path / "later.npz")
    assert_helpful(str(error.value))


def test_an_unknown_pretrained_agent(capsys):
    assert main(["evaluate", "pretrained:cartpol"]) == 2
    assert "pretrained:cartpole?" in capsys.readouterr().err


@pytest.mark.parametrize("name", pretrained.NAMES)
def test_pretrained_agents_are_small_and_better_than_chance(name):
    assert pretrained.agent_file(name).stat().st_size <= 300_000
    saved = read_agent(f"pretrained:{name}")
    assert saved.config.env == pretrained.NAMES[name]
    found = evaluate_run(f"pretrained:{name}", episodes=3)
    assert found["return_mean"] > {"cartpole": 150, "pendulum": -500, "acrobot": -250}[name]


def test_a_study_of_a_pretrained_agent(tmp_path, monkeypatch):
    agent = loopwm.load("pretrained:cartpole")
    assert loopwm.certify(agent.world_model.core).rate < 1.0
