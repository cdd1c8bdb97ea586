"""Environments with one fault each, registered as broken_envs:NAME-v0.

Their spaces are those of CartPole-v1, so that tests share compiled programs. Episodes last 20
steps, so that evaluations of the `debug` preset end before the fault of the training environment,
which comes at its 80th step: learning has begun then, and a checkpoint was written.
"""

from typing import Any

import gymnasium as gym
import numpy as np

FAULT_AT = 80


class Faulty(gym.Env):
    """Works until its fault shows."""

    observation_space = gym.spaces.Box(-10.0, 10.0, (4,), np.float32)
    action_space = gym.spaces.Discrete(2)
    metadata = {"render_modes": []}

    def __init__(self, fault: str = "none", at: int = FAULT_AT, render_mode: str | None = None):
        self.fault, self.at, self.render_mode = fault, at, render_mode
        self.steps = 0
        if fault == "constructor":
            raise RuntimeError("the licence server\ndoes not answer.")
        if fault == "extra":
            raise gym.error.DependencyNotInstalled(
                'MuJoCo is not installed, run `pip install "gymnasium[mujoco]"`'
            )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        if self.fault == "reset":
            raise OSError("no such simulator")
        self.moment = 0
        if self.fault == "old reset":
            return np.zeros(4, np.float32)
        return self.np_random.normal(size=4).astype(np.float32), {}

    def step(self, action: int):
        self.steps += 1
        self.moment += 1
        observation: Any = self.np_random.normal(size=4).astype(np.float32)
        reward: Any = 1.0
        if self.steps >= self.at:
            if self.fault == "step":
                raise ValueError("the arm hit\nthe table.")
            observation = {
                "leaves": np.asarray([0.0, 0.0, 40.0, 0.0], np.float32),
                "NaN": np.asarray([0.0, np.nan, 0.0, 0.0], np.float32),
                "huge observation": np.full(4, 1e300),
                "shape": np.zeros(5, np.float32),
                "nothing": None,
                "text": np.asarray(["a", "b", "c", "d"]),
            }.get(self.fault, observation)
            reward = {
                "infinite reward": np.inf,
                "huge reward": 1e300,
                "large reward": -3e7,
                "text reward": "many",
                "missing reward": None,
            }.get(self.fault, reward)
        if self.fault == "old step":
            return observation, reward, False, {}
        return observation, reward, self.moment >= 20, False, {}


class OtherSpaces(gym.Env):
    """An environment with spaces that nothing here supports."""

    def __init__(self, observation: gym.Space | None = None, action: gym.Space | None = None):
        # An empty Dict space is false.
        given = observation is not None
        self.observation_space = observation if given else Faulty.observation_space
        self.action_space = Faulty.action_space if action is None else action


class Endless(Faulty):
    """Its episodes do not end."""

    def step(self, action: int):
        observation, reward, _, truncated, info = super().step(action)
        return observation, reward, False, truncated, info


class Outside(gym.Env):
    """Leaves its Discrete observation space with the first step."""

    observation_space = gym.spaces.Discrete(3)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        return 0, {}

    def step(self, action: int):
        return 3, 0.0, False, False, {}


FAULTS = {
    "NoFault": "none",
    "Constructor": "constructor",
    "Extra": "extra",
    "Reset": "reset",
    "OldReset": "old reset",
    "Step": "step",
    "OldStep": "old step",
    "NaN": "NaN",
    "HugeObservation": "huge observation",
    "Shape": "shape",
    "Nothing": "nothing",
    "Text": "text",
    "InfiniteReward": "infinite reward",
    "HugeReward": "huge reward",
    "LargeReward": "large reward",
    "Leaves": "leaves",
    "TextReward": "text reward",
    "MissingReward": "missing reward",
}
SPACES: dict[str, dict[str, gym.Space]] = {
    "DictObservation": {"observation": gym.spaces.Dict({"a": gym.spaces.Text(3)})},
    "TupleObservation": {"observation": gym.spaces.Tuple((gym.spaces.Text(3),))},
    "DictAction": {"action": gym.spaces.Dict({"a": gym.spaces.Discrete(2)})},
    "EmptyObservation": {"observation": gym.spaces.Dict({})},
    "LargeAction": {"action": gym.spaces.Discrete(10**6)},
    "UnboundedAction": {"action": gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)},
}

for _name, _fault in FAULTS.items():
    gym.register(f"{_name}-v0", entry_point=Faulty, kwargs={"fault": _fault})
for _name, _spaces in SPACES.items():
    gym.register(f"{_name}-v0", entry_point=OtherSpaces, kwargs=dict(_spaces))


gym.register("Endless-v0", entry_point=Endless)
gym.register("Outside-v0", entry_point=Outside)
gym.register("NotAnEnv-v0", entry_point=dict)
