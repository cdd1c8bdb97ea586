"""One environment for every kind of observation and of action, registered as space_envs:OBS-ACT-v0.

Observations are drawn from their space; the reward is the share of the action's entries that are
at their largest value.
"""

from typing import Any

import gymnasium as gym
import numpy as np

BOX, UINT8 = gym.spaces.Box, np.uint8
OBSERVATIONS: dict[str, gym.Space] = {
    "vector": BOX(-np.inf, np.inf, (3,), np.float32),
    "scalar": BOX(-2.0, 5.0, (), np.float64),
    "cube": BOX(-1.0, 3.0, (2, 2, 2), np.float32),
    "odd_picture": BOX(0, 255, (7, 5, 3), UINT8),
    "picture": BOX(0, 255, (16, 17, 3), UINT8),
    "grey": BOX(0, 255, (16, 17), UINT8),
    "channels_first": BOX(0, 255, (3, 16, 17), UINT8),
    "frames": BOX(0, 255, (4, 16, 17), UINT8),
    "coloured_frames": BOX(0, 255, (2, 16, 17, 3), UINT8),
    "float_picture": BOX(0.0, 1.0, (8, 9, 3), np.float32),
    "discrete": gym.spaces.Discrete(5, start=-2),
    "multi_discrete": gym.spaces.MultiDiscrete([[2, 3], [4, 2]], start=[[0, 5], [-1, 1]]),
    "multi_binary": gym.spaces.MultiBinary([2, 3]),
}
OBSERVATIONS["dict"] = gym.spaces.Dict({k: OBSERVATIONS[k] for k in ("scalar", "discrete", "grey")})
OBSERVATIONS["tuple"] = gym.spaces.Tuple([OBSERVATIONS["multi_binary"], OBSERVATIONS["dict"]])

ACTIONS: dict[str, gym.Space] = {
    "box": BOX(-1.0, 3.0, (2,), np.float32),
    "scalar_box": BOX(0.0, 1.0, (), np.float64),
    "integer_box": BOX(0, 9, (1, 2), np.int64),
    "discrete": gym.spaces.Discrete(3, start=4),
    "large": gym.spaces.Discrete(300),
    "multi_discrete": gym.spaces.MultiDiscrete([2, 4, 3]),
    "matrix": gym.spaces.MultiDiscrete([[3, 3], [3, 3]], start=[[0, 1], [-1, 5]]),
    "multi_binary": gym.spaces.MultiBinary([2, 2]),
}


def largest(space: Any) -> np.ndarray:
    """The largest action of a space, entry by entry."""
    if isinstance(space, BOX):
        return space.high
    if isinstance(space, gym.spaces.Discrete):
        return np.asarray(space.start + space.n - 1)
    if isinstance(space, gym.spaces.MultiDiscrete):
        return space.start + space.nvec - 1
    return np.ones(space.shape, np.int8)


class Sampled(gym.Env):
    """Draws observations from a space, and wants the largest action."""

    def __init__(self, observation: str = "vector", action: str = "discrete"):
        self.observation_space = OBSERVATIONS[observation]
        self.action_space = ACTIONS[action]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        return self._observation(), {}

    def step(self, action: Any):
        assert self.action_space.contains(np.asarray(action)) or self.action_space.contains(action)
        reward = float(np.mean(np.asarray(action) == largest(self.action_space)))
        return self._observation(), reward, bool(self.np_random.random() < 0.05), False, {}

    def _observation(self) -> Any:
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        return self.observation_space.sample()


for _observation in OBSERVATIONS:
    for _action in ACTIONS:
        gym.register(
            f"{_observation}-{_action}-v0",
            entry_point=Sampled,
            max_episode_steps=12,
            kwargs={"observation": _observation, "action": _action},
        )
