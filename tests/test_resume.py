"""Runs that go on: after their end, after a crash, after Ctrl-C."""

import dataclasses
import json
import os
import pathlib
import shlex
import shutil
import signal

import numpy as np
import pytest
import toy_envs
from run_fixtures import without_times

import loopwm
from loopwm.errors import RunFailure, UsageError
from loopwm.planning import Bonus
from loopwm.run import Interrupted
from loopwm.training import RunFolder, checkpoint


def states(path):
    folder = RunFolder.open(path)
    arrays, meta = checkpoint.load(folder)
    return arrays, meta, checkpoint.load_replay(folder)


def counts(arrays):
    """The optimiser's own counts of updates, and the learner's."""
    found = {int(a) for name, a in arrays.items() if "optimiser" in name and "count" in name}
    return found, int(arrays["learner.updates"])


def test_a_loaded_agent_explores_with_the_bonus_of_its_training(cartpole_copy):
    folder = RunFolder.open(cartpole_copy)
    config = folder.read_config()
    planning = dataclasses.replace(config.planning, bonus=Bonus.RESIDUAL, bonus_weight=7.0)
    folder.write_config(dataclasses.replace(config, planning=planning))
    agent = loopwm.load(cartpole_copy)
    assert (agent.bonus, agent.bonus_weight) == (Bonus.RESIDUAL, 7.0)


@pytest.fixture(scope="module")
def resumed(cartpole_run, tmp_path_factory):
    """The CartPole run, gone on with to 160 env steps."""
    path = tmp_path_factory.mktemp("resumed") / "run"
    shutil.copytree(cartpole_run.path, path)
    return loopwm.resume(path, steps=160, quiet=True), path


def test_it_goes_on_to_the_new_number_of_steps(cartpole_run, resumed):
    _, path = resumed
    folder = RunFolder.open(path)
    assert checkpoint.steps(folder) == [128, 160]
    assert folder.read_config().steps == 160
    evals = folder.read_evals()
    assert evals[:2] == cartpole_run.evals
    assert [record["env_steps"] for record in evals] == [48, 96, 144]
    summary = json.loads(folder.summary_file.read_text())
    assert summary["env_steps"] == 160
    assert summary["wall_seconds"] > cartpole_run.summary["wall_seconds"]
    assert len(list(path.glob("events.out.tfevents.*"))) == 2


def test_learner_optimiser_and_normaliser_go_on(cartpole_run, resumed):
    before, meta_before, _ = states(cartpole_run.path)
    after, meta_after, _ = states(resumed[1])
    # A quarter of an update a step, four a call: 24 updates in 96 steps, 40 in 160.
    assert counts(before) == ({24}, 24) and counts(after) == ({40}, 40)
    assert before["normalizer.count"] < after["normalizer.count"]
    assert not np.array_equal(before["keys.actor"], after["keys.actor"])
    np.testing.assert_array_equal(before["keys.random"], after["keys.random"])
    assert meta_before["rng"] != meta_after["rng"]
    assert meta_after["counters"]["env_steps"] == 160


def test_the_replay_is_kept(cartpole_run, resumed):
    *_, before = states(cartpole_run.path)
    *_, after = states(resumed[1])
    kept = ~before["last"]
    assert kept.sum() == 96
    for name in ("observation", "action", "reward", "terminated"):
        np.testing.assert_array_equal(before[name][kept], after[name][kept])
    assert (~after["last"]).sum() == 160  # the capacity is 1000: nothing was overwritten


def test_the_resumed_agent_is_the_saved_one(resumed):
    agent, path = resumed
    observation = np.asarray([0.01, 0.02, -0.03, 0.04], np.float32)
    assert loopwm.load(path).act(observation)[0] == agent.act(observation)[0]


def test_a_finished_run_stays_as_it_is(cartpole_copy):
    before = {p: p.stat().st_mtime_ns for p in (cartpole_copy / "checkpoints").rglob("*")}
    evals = (cartpole_copy / "evals.jsonl").read_text()
    loopwm.resume(cartpole_copy, quiet=True)
    after = {p: p.stat().st_mtime_ns for p in (cartpole_copy / "checkpoints").rglob("*")}
    assert after == before
    assert (cartpole_copy / "evals.jsonl").read_text() == evals


def test_fewer_steps_than_were_made_are_refused(cartpole_copy, assert_helpful):
    with pytest.raises(UsageError, match="96 env steps") as raised:
        loopwm.resume(cartpole_copy, steps=95, quiet=True)
    assert_helpful(raised)
    assert RunFolder.open(cartpole_copy).read_config().steps == 96


def test_resuming_twice_from_the_same_state_is_the_same_run(resumed, cartpole_copy):
    loopwm.resume(cartpole_copy, steps=160, quiet=True)
    one, two = states(resumed[1])[0], states(cartpole_copy)[0]
    for name, array in one.items():
        np.testing.assert_array_equal(array, two[name], err_msg=name)
    evals = [without_times(RunFolder.open(p).read_evals()) for p in (resumed[1], cartpole_copy)]
    assert evals[0] == evals[1]


class Crash:
    """Makes environments; the one that is learned in raises at its 80th step until repaired."""

    __name__ = "Crash"

    def __init__(self):
        self.broken = True

    def __call__(self):
        crash = self

        class Crashing(toy_envs.Corridor):
            steps = 0

            def step(self, action):
                self.steps += 1
                if crash.broken and self.steps == 80:
                    raise ConnectionError("the simulator is gone.\nBye")
                return super().step(action)

        return Crashing()


def test_after_a_crash_it_goes_on_from_the_last_checkpoint(cartpole_run, tmp_path):
    source, path = Crash(), tmp_path / "run"
    given = {"config": "debug", "quiet": True, "out": path}
    with pytest.raises(RunFailure) as raised:
        loopwm.train(source, overrides={"evaluation": {"every": 35}}, **given)
    message = str(raised.value)
    assert "ConnectionError" in message and "the simulator is gone; Bye" in message
    assert str(path / "checkpoints" / "64") in message
    assert "\n" not in message and message.endswith(".")
    folder = RunFolder.open(path)
    assert checkpoint.steps(folder) == [64]
    assert [r["env_steps"] for r in folder.read_evals()] == [35, 70]
    loopwm.load(path, env=source)
    source.broken = False
    loopwm.resume(path, env=source, quiet=True)
    # The evaluation at 70 came after the checkpoint; it was made anew.
    assert [r["env_steps"] for r in folder.read_evals()] == [35, 70]
    assert len(folder.evals_file.read_text().splitlines()) == 2
    assert checkpoint.steps(folder) == [64, 96]


def test_evaluations_newer_than_the_checkpoint_are_dropped(cartpole_copy):
    folder = RunFolder.open(cartpole_copy)
    kept = folder.read_evals()
    folder.append_eval(kept[-1] | {"env_steps": 120})
    loopwm.resume(cartpole_copy, quiet=True)
    assert folder.read_evals() == kept


def interrupted(path, source, **kwargs):
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    with pytest.raises(Interrupted) as raised:
        loopwm.train(source, config="debug", out=path, quiet=True, **kwargs)
    assert {s: signal.getsignal(s) for s in before} == before
    return str(raised.value)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_names_the_command(cartpole_run, in_tmp, number):
    class Signalling(toy_envs.Corridor):
        steps = 0

        def step(self, action):
            self.steps += 1
            if self.steps == 50:
                os.kill(os.getpid(), number)
            return super().step(action)

    path = pathlib.Path("my runs") / "a"
    message = interrupted(path, Signalling)
    assert "env step 50" in message and f"loopwm.resume({str(path)!r}, env=Signalling)" in message
    assert checkpoint.steps(RunFolder.open(path)) == [50]
    page = RunFolder.open(path).report_file.read_text(encoding="utf-8")
    assert "<h2>Imagination" in page and "at env step 48" in page  # its only evaluation
    agent = loopwm.resume(path, env=toy_envs.Corridor, steps=60, quiet=True)
    assert checkpoint.steps(RunFolder.open(path)) == [50, 60]
    assert agent.act(4)[0] in (1, 2)


def test_the_command_of_an_id_can_be_pasted(cartpole_run, in_tmp, monkeypatch):
    def step(self, action):
        os.kill(os.getpid(), signal.SIGINT)
        return 3, 0.0, False, False, {}

    with monkeypatch.context() as patch:
        patch.setattr(toy_envs.Corridor, "step", step)
        message = interrupted(pathlib.Path("my runs") / "b", "toy_envs:Corridor-v0")
    command = shlex.split(message.split("go on with: ")[1])
    assert command == ["loopwm", "train", "toy_envs:Corridor-v0", "--resume", "my runs/b"]


def test_one_environment_cannot_be_used_for_all(in_tmp, assert_helpful):
    one = toy_envs.Corridor()
    with pytest.raises(UsageError, match="made the same environment twice") as raised:
        loopwm.train(lambda: one, config="debug", out="run", quiet=True)
    assert_helpful(raised)
    assert not pathlib.Path("run").exists()


def test_an_environment_that_cannot_be_made_once_more_fails_the_run(cartpole_run, tmp_path):
    made = []

    class Single(toy_envs.Corridor):
        def __init__(self):
            made.append(self)
            if len(made) == 3:  # after one to read the spaces and one to learn in
                raise RuntimeError("only one licence")

    changes = {"checkpoint_every": 40}
    with pytest.raises(RunFailure, match="only one licence.*checkpoint is .*checkpoints.40"):
        loopwm.train(Single, config="debug", out=tmp_path / "run", quiet=True, overrides=changes)
    assert checkpoint.steps(RunFolder.open(tmp_path / "run")) == [40]


def test_a_signal_during_an_evaluation_ends_it(cartpole_run, tmp_path):
    made = []

    class Signalling(toy_envs.Corridor):
        def __init__(self):
            made.append(self)
            self.number = len(made)

        def step(self, action):
            if self.number == 3:  # after one to read the spaces and one to learn in
                os.kill(os.getpid(), signal.SIGINT)
                return 3, 0.0, False, False, {}
            return super().step(action)

    interrupted(tmp_path / "run", Signalling)
    folder = RunFolder.open(tmp_path / "run")
    assert folder.read_evals() == []
    assert checkpoint.steps(folder) == [48]
    assert "<h2>Imagination" not in folder.report_file.read_text(encoding="utf-8")
    # The evaluation is made up for, were it that of the run's last step.
    loopwm.resume(folder.path, env=toy_envs.Corridor, steps=48, quiet=True)
    assert [r["env_steps"] for r in folder.read_evals()] == [48]


@pytest.mark.parametrize("what", ["no checkpoint", "another environment", "no run"])
def test_what_cannot_go_on_is_refused(cartpole_copy, tmp_path, what, assert_helpful):
    env = None
    if what == "no checkpoint":
        shutil.rmtree(cartpole_copy / "checkpoints")
    elif what == "another environment":
        env = "Pendulum-v1"
    else:
        cartpole_copy = tmp_path
    with pytest.raises(UsageError) as raised:
        loopwm.resume(cartpole_copy, env=env, quiet=True)
    assert str(cartpole_copy) in str(raised.value)
    assert_helpful(raised)
