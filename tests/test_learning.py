"""Whether anything is learned: a short run on CartPole-v1 against random actions."""

import numpy as np
import pytest

import loopwm
from loopwm.agents import RandomAgent
from loopwm.envs import Spaces
from loopwm.evaluation import run_episodes

SMALL = {
    "model": {"name": "looped", "latent": 16, "hidden": 32, "depth": 2, "core": {"width": 24}},
    "heads": {"hidden": 32},
    "planning": {
        "categorical_cem": {
            "horizon": 5,
            "population": 16,
            "proposals": 4,
            "iterations": 2,
            "elites": 4,
        }
    },
    "learner": {"batch_size": 32, "sequence": 3, "imagination": 4},
    "collection": {"random_steps": 200, "updates_per_call": 8},
    "evaluation": {"every": 10_000},
}


def mean_return(agent, episodes=10):
    spaces = Spaces.of_source("CartPole-v1")
    result = run_episodes(agent, "CartPole-v1", spaces, episodes=episodes, seed=77, max_steps=200)
    return float(np.mean(result.returns))


def random_return():
    spaces = Spaces.of_source("CartPole-v1")
    return mean_return(RandomAgent(spaces.action.layout, spaces), 50)


def test_a_small_agent_beats_random_actions(compile_cache, tmp_path):
    """Both the planner and the policy that it taught."""
    path = tmp_path / "run"
    planning = loopwm.train("CartPole-v1", seed=0, steps=500, out=path, overrides=SMALL, quiet=True)
    policy = loopwm.load(path, planner="policy")
    chance = random_return()
    assert 15 < chance < 35
    assert mean_return(planning) > 2 * chance
    assert mean_return(policy) > 2 * chance


@pytest.mark.slow
@pytest.mark.parametrize(
    ("env", "steps", "good"), [("CartPole-v1", 1500, 300.0), ("Pendulum-v1", 1200, -400.0)]
)
def test_the_preset_learns(env, steps, good, tmp_path):
    path = tmp_path / "run"
    loopwm.train(env, seed=0, steps=steps, out=path, quiet=True)
    best = max(record["return_mean"] for record in loopwm_evals(path))
    assert best > good


def loopwm_evals(path):
    from run_fixtures import read_evals

    return read_evals(path)
