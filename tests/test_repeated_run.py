"""Runs whose actions are repeated: everything said in env steps stays in env steps."""

import gymnasium as gym
import pytest
from run_fixtures import read_evals

import loopwm
from loopwm import run
from loopwm.envs import RepeatedSource
from loopwm.errors import UsageError
from loopwm.training import RunFolder, checkpoint


def train(path, source, **kwargs):
    """A debug run with every action taken three times."""
    loopwm.train(
        source, config="debug", out=path, overrides={"action_repeat": 3}, quiet=True, **kwargs
    )
    return RunFolder.open(path)


@pytest.mark.parametrize("function", [False, True])
def test_actions_may_be_repeated(cartpole_run, tmp_path, function, monkeypatch):
    source = (lambda: gym.make("CartPole-v1")) if function else "CartPole-v1"
    folder = train(tmp_path / "run", source)
    given = source if function else None
    evals, meta = read_evals(tmp_path / "run"), checkpoint.load(folder)[1]
    # Everything is counted in env steps: 96 of them, 32 decisions, updates as without repeats.
    assert [record["env_steps"] for record in evals] == [48, 96]
    assert meta["counters"]["env_steps"] == 96
    without = checkpoint.load(RunFolder.open(cartpole_run.path))[1]["counters"]
    assert meta["counters"]["updates_owed"] == without["updates_owed"]
    replay = checkpoint.load_replay(folder)
    rewards = replay["reward"][replay["reward"] > 0]
    assert set(rewards) <= {1.0, 2.0, 3.0} and 3.0 in rewards and len(rewards) == 32
    # An agent is evaluated as it was trained: 17 decisions are the 50 env steps of the preset.
    asked, original = {}, run.run_episodes

    def watched(agent, source, spaces, **kwargs):
        result = original(agent, source, spaces, **kwargs)
        asked.update(kwargs, source=source, decisions=result.candidates.decisions)
        return result

    monkeypatch.setattr(run, "run_episodes", watched)
    returns = run.evaluate_run(tmp_path / "run", episodes=2, env=given)["returns"]
    assert asked["source"] == RepeatedSource(source, 3) and asked["max_steps"] == 17
    assert asked["decisions"] == sum(-(-int(steps) // 3) for steps in returns)
    env = loopwm.make_env(tmp_path / "run", env=given)
    env.reset(seed=0)
    assert env.step(0)[1] == 3.0


@pytest.mark.parametrize("function", [False, True])
def test_a_run_with_repeated_actions_goes_on(cartpole_run, tmp_path, function):
    source = (lambda: gym.make("CartPole-v1")) if function else "CartPole-v1"
    train(tmp_path / "run", source, steps=48)
    loopwm.resume(tmp_path / "run", env=source, steps=96, quiet=True)
    assert [record["env_steps"] for record in read_evals(tmp_path / "run")] == [48, 96]


def test_no_repeats_is_refused(assert_helpful):
    with pytest.raises(UsageError, match="action_repeat is 0") as raised:
        run.resolve_config("CartPole-v1", overrides={"action_repeat": 0})
    assert_helpful(raised)
