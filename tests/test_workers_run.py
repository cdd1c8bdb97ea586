"""Whole runs with environments in worker processes."""

import multiprocessing

import broken_envs
import gymnasium as gym
import numpy as np
import pytest
import yaml

import loopwm
from loopwm.cli.main import main
from loopwm.training import RunFolder, checkpoint


def train(path, kind, env="CartPole-v1"):
    collection = {"envs": 2, "vector": kind, "same_step_reset": True}
    overrides = {"collection": collection, "evaluation": {"every": 1000}}
    loopwm.train(env, config="debug", steps=64, out=path, overrides=overrides, quiet=True)
    return RunFolder.open(path)


def assert_same_state(one, two):
    """The newest checkpoints agree bit for bit, replay and generator included."""
    assert checkpoint.steps(one) == checkpoint.steps(two)
    (arrays, meta), (others, other) = checkpoint.load(one), checkpoint.load(two)
    assert set(arrays) == set(others) and meta["rng"] == other["rng"]
    pairs = [(arrays[name], others[name]) for name in arrays]
    own, its = checkpoint.load_replay(one), checkpoint.load_replay(two)
    pairs += [(own[name], its[name]) for name in own]
    for array, also in pairs:
        np.testing.assert_array_equal(array, also, strict=True)


def test_the_run_is_the_same_with_either_and_goes_on_with_either(compile_cache, tmp_path):
    here, there = (train(tmp_path / kind, kind) for kind in ("sync", "async"))
    assert_same_state(here, there)
    assert there.read_config().collection.vector == "async"
    # Where environments run may change: what was begun in this process goes on in workers.
    values = yaml.safe_load(here.config_file.read_text())
    values["collection"]["vector"] = "async"
    here.config_file.write_text(yaml.safe_dump(values))
    values = yaml.safe_load(there.config_file.read_text())
    values["collection"]["vector"] = "sync"
    there.config_file.write_text(yaml.safe_dump(values))
    for folder in (here, there):
        loopwm.resume(folder.path, steps=80, quiet=True)
    assert_same_state(here, there)
    assert checkpoint.steps(here)[-1] == 80
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("fault", "said"), [("dies", "exit status 7"), ("raises", "the arm hit the table")]
)
def test_a_worker_that_fails_ends_the_run_with_the_last_checkpoint(
    fault, said, compile_cache, in_tmp, capsys, assert_helpful
):
    settings = ["collection.vector=async", "collection.envs=2", "evaluation.every=1000"]
    arguments = ["train", f"worker_envs:{fault}-v0", "--config", "debug", "--out", "run"]
    assert main([*arguments, "--set", *settings]) == 1
    shown = capsys.readouterr().err
    line = shown.splitlines()[-1]
    assert_helpful(line)
    assert said in line and "the last good checkpoint is run/checkpoints/64" in line
    assert "Traceback" not in shown
    assert checkpoint.steps(RunFolder.open("run")) == [64]
    assert not multiprocessing.active_children()


class Ends(broken_envs.Endless):
    """Ends by itself after so many steps, without a time limit that could be read."""

    def __init__(self, longest):
        super().__init__()
        self.longest = longest

    def reset(self, **given):
        self.made = 0
        return super().reset(**given)

    def step(self, action):
        self.made += 1
        observation, reward, terminated, _, info = super().step(action)
        return observation, reward, terminated, self.made >= self.longest, info


def test_episodes_that_do_not_end_end_the_run_and_lose_nothing(
    compile_cache, in_tmp, capsys, assert_helpful
):
    settings = ["collection.longest_episode=70", "evaluation.every=1000"]
    arguments = ["--config", "debug", "--set", *settings]
    assert main(["train", "broken_envs:Endless-v0", *arguments, "--out", "endless"]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert_helpful(line)
    assert "gymnasium.wrappers.TimeLimit(env, max_episode_steps=...)" in line
    assert "the last good checkpoint is endless/checkpoints/70" in line
    # A time limit, or saying that it is meant so, lets it run.
    debug = {"config": "debug", "steps": 80, "quiet": True}
    collection = {"longest_episode": 70}
    for name, source, change in (
        ("limited", lambda: gym.wrappers.TimeLimit(broken_envs.Endless(), 75), {}),
        ("forever", broken_envs.Endless, {"longest_episode": None}),
        ("just", lambda: Ends(70), {}),
    ):
        overrides = {"collection": collection | change, "evaluation": {"every": 1000}}
        loopwm.train(source, out=name, overrides=overrides, **debug)
        assert checkpoint.steps(RunFolder.open(name))[-1] == 80
