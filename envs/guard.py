"""A wrapper that turns an environment's faults into one clear sentence."""

from typing import Any

import gymnasium as gym
import numpy as np

from loopwm.errors import RunFailure


class GuardedEnv(gym.Wrapper):
    """Checks what an environment returns and names what is wrong with it."""

    def __init__(self, env: gym.Env, name: str):
        """Args: the environment, and its name for messages."""
        super().__init__(env)
        self._name = name
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Resets; a fault is a `RunFailure`."""
        try:
            observation, info = self.env.reset(seed=seed, options=options)
        except Exception as error:
            raise RunFailure(
                f"{self._name} raised {type(error).__name__} in reset: {error}; correct the "
                "environment."
            ) from error
        self._check(observation, "reset")
        return observation, info

    def step(self, action: Any):
        """Steps; a fault is a `RunFailure`."""
        self._steps += 1
        where = f"step {self._steps}"
        try:
            observation, reward, terminated, truncated, info = self.env.step(action)
        except Exception as error:
            raise RunFailure(
                f"{self._name} raised {type(error).__name__} in {where}: {error}; correct the "
                "environment."
            ) from error
        self._check(observation, where)
        try:
            value = float(reward)
        except (TypeError, ValueError) as error:
            raise RunFailure(
                f"{self._name} returned the reward {reward!r} in {where}; return a number."
            ) from error
        if not np.isfinite(value):
            raise RunFailure(
                f"{self._name} returned the reward {value} in {where}; return finite rewards."
            )
        return observation, value, bool(terminated), bool(truncated), info

    def _check(self, observation: Any, where: str) -> None:
        space = self.env.observation_space
        shape = space.shape
        if shape is not None and np.shape(observation) != shape:
            raise RunFailure(
                f"{self._name} returned an observation of shape {np.shape(observation)} in "
                f"{where}, but its observation_space has {shape}; correct one of them."
            )
        array = np.asarray(observation)
        if np.issubdtype(array.dtype, np.inexact) and not np.all(np.isfinite(array)):
            raise RunFailure(
                f"{self._name} returned NaN or infinity in an observation in {where}; correct "
                "the environment."
            )
        if isinstance(space, gym.spaces.Discrete) and not space.contains(observation):
            raise RunFailure(
                f"{self._name} returned the observation {observation} in {where}, which lies "
                f"outside {space}; correct one of them."
            )
