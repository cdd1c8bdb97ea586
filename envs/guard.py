"""A wrapper that turns an environment's faults into one clear sentence."""

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from loopwm.errors import RunFailure, UsageError, as_clause


class GuardedEnv(gym.Wrapper):
    """Checks what an environment returns and names what is wrong with it."""

    def __init__(self, env: gym.Env, name: str):
        """Args: the environment, and its name for messages."""
        super().__init__(env)
        self._name = name
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Resets; a fault is a `RunFailure`, a missing package a `UsageError`."""
        try:
            observation, info = self.env.reset(seed=seed, options=options)
        except gym.error.DependencyNotInstalled as error:
            raise missing_package(self._name, error) from error
        except Exception as error:
            raise RunFailure(
                f"{self._name} raised {type(error).__name__} in reset: {as_clause(error)}; "
                "correct the environment."
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
                f"{self._name} raised {type(error).__name__} in {where}: {as_clause(error)}; "
                "correct the environment."
            ) from error
        self._check(observation, where)
        try:
            value = float(reward)
        except (TypeError, ValueError) as error:
            raise RunFailure(
                f"{self._name} returned the reward {reward!r} in {where}, which is no number; "
                "correct the environment."
            ) from error
        if not _fits_float32(value):
            raise RunFailure(
                f"{self._name} returned the reward {value} in {where}, but rewards need to be "
                "finite in float32; correct the environment."
            )
        return observation, value, bool(terminated), bool(truncated), info

    def _check(self, observation: Any, where: str) -> None:
        _check_observation(self._name, self.env.observation_space, observation, where)


def _check_observation(name: str, space: gym.Space, observation: Any, where: str) -> None:
    """Refuses what does not fit the space; the parts of Dict and Tuple are checked in turn."""
    if isinstance(space, gym.spaces.Dict | gym.spaces.Tuple):
        keyed = isinstance(space, gym.spaces.Dict)
        parts: Any = space.spaces
        names = list(parts) if keyed else list(range(len(parts)))
        kind = Mapping if keyed else Sequence
        given = isinstance(observation, kind) and len(observation) == len(names)
        if not given or (keyed and set(observation) != set(names)):
            raise RunFailure(
                f"{name} returned an observation in {where} without exactly the parts "
                f"{', '.join(map(str, names))} of its observation_space; correct the environment."
            )
        for part in names:
            _check_observation(name, parts[part], observation[part], f"{where} at {part!r}")
        return
    shape = space.shape
    if shape is not None and np.shape(observation) != shape:
        raise RunFailure(
            f"{name} returned an observation of shape {np.shape(observation)} in {where}, but its "
            f"observation_space has {shape}; correct the environment."
        )
    array = np.asarray(observation)
    if not np.issubdtype(array.dtype, np.number) and array.dtype != bool:
        raise RunFailure(
            f"{name} returned an observation of {array.dtype} in {where}, which holds no numbers; "
            "correct the environment."
        )
    if not _fits_float32(array):
        raise RunFailure(
            f"{name} returned NaN or infinity in an observation in {where}, or a number too large "
            "for float32; correct the environment."
        )
    counted = (gym.spaces.Discrete, gym.spaces.MultiDiscrete, gym.spaces.MultiBinary)
    if isinstance(space, counted) and not space.contains(observation):
        raise RunFailure(
            f"{name} returned the observation {' '.join(str(observation).split())} in {where}, "
            f"which lies outside {space}; correct the environment."
        )


def _fits_float32(value: float | np.ndarray) -> bool:
    with np.errstate(over="ignore"):
        return bool(np.all(np.isfinite(np.asarray(value).astype(np.float32))))


def missing_package(name: str, error: gym.error.DependencyNotInstalled) -> UsageError:
    """Says what an environment needs and how to get it."""
    text = as_clause(error)
    remedy = "install it and try again"
    if "mujoco" in text.lower():
        remedy = 'install it with pip install "loopwm[mujoco]"'
    elif "pygame" in text.lower() or "classic-control" in text.lower():
        remedy = 'install it with pip install "loopwm[video]"'
    return UsageError(f"'{name}' needs a package that is not installed: {text}; {remedy}.")
