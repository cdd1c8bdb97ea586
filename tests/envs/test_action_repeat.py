"""Decisions that last several env steps."""

import gymnasium as gym
import numpy as np
import pytest
import toy_envs

from loopwm.envs import (
    ActionRepeat,
    RepeatedSource,
    Spaces,
    VectorKind,
    VectorStepper,
    env_id,
    env_name,
    make,
    make_vector,
    time_limit,
)


class Metered(gym.Env):
    """Counts to 5; a step's reward is the count before it, its depth one more."""

    observation_space = gym.spaces.Box(0.0, 5.0, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, ends="terminated"):
        self.count, self.ends = 0, ends

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        before, self.count = self.count, self.count + 1
        over = self.count == 5
        info = {"true_depth": before + 1, "count": self.count}
        flags = (over and self.ends == "terminated", over and self.ends == "truncated")
        return np.full(1, self.count, np.float32), float(before), *flags, info


@pytest.mark.parametrize("ends", ["terminated", "truncated"])
def test_rewards_are_summed_until_the_episode_ends(ends):
    env = ActionRepeat(Metered(ends), 3)
    env.reset(seed=0)
    observation, reward, *flags, info = env.step(0)
    assert observation == 3 and reward == 0 + 1 + 2 and flags == [False, False]
    assert info == {"true_depth": 1 + 2 + 3, "count": 3}
    observation, reward, terminated, truncated, info = env.step(1)
    assert observation == 5 and reward == 3 + 4 and info["true_depth"] == 4 + 5
    assert (terminated, truncated) == (ends == "terminated", ends == "truncated")


@pytest.mark.parametrize("source", ["toy_envs:Counting-v0", toy_envs.Counting])
def test_a_source_keeps_its_name_and_its_id(source):
    repeated = RepeatedSource(source, 4)
    assert env_name(repeated) == env_name(source) and env_id(repeated) == env_id(source)
    assert (env_id(source) is None) == callable(source)
    spaces, own = Spaces.of_source(repeated), Spaces.of_source(source)
    assert spaces.action.size == own.action.size
    assert spaces.observation.size == own.observation.size


def test_a_time_limit_is_counted_in_decisions():
    id = "toy_envs:Counting-v0"  # 50 steps
    assert time_limit(make(id)) == 50
    assert time_limit(make(RepeatedSource(id, 4))) == 13
    assert time_limit(make(RepeatedSource(toy_envs.Counting, 4))) is None
    limited = gym.wrappers.TimeLimit(toy_envs.Counting(), 10)
    assert time_limit(ActionRepeat(limited, 4)) == 3
    assert time_limit(gym.wrappers.TimeLimit(ActionRepeat(limited, 4), 2)) == 2


def test_a_video_plays_as_fast_as_what_it_shows():
    env = make(RepeatedSource("CartPole-v1", 4), render_mode="rgb_array")
    assert env.metadata["render_fps"] == 50 / 4 and env.render_mode == "rgb_array"
    assert make("CartPole-v1").metadata["render_fps"] == 50
    assert "render_fps" not in ActionRepeat(Metered(), 4).metadata
    odd = Metered()
    odd.metadata = {"render_fps": "30"}
    assert ActionRepeat(odd, 4).metadata == {"render_fps": "30"}


@pytest.mark.parametrize("kind", list(VectorKind))
def test_vector_environments_repeat(kind):
    source = RepeatedSource("CartPole-v1", 3)
    stepper = VectorStepper(make_vector(source, 2, kind=kind), Spaces.of_source(source))
    stepper.reset(seed=0)
    steps = stepper.step(np.array([0, 1]))
    stepper.close()
    np.testing.assert_array_equal(steps.reward, [3.0, 3.0])
    single = gym.make("CartPole-v1")
    single.reset(seed=1)
    for _ in range(3):
        observation, *_ = single.step(1)
    np.testing.assert_allclose(steps.next_observation[1], observation, rtol=1e-6)
