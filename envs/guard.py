"""A wrapper that turns an environment's faults into one clear sentence."""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from loopwm.envs.codec import one_line, parts_of
from loopwm.errors import RunFailure, UsageError, as_clause

REWARD_LIMIT = 1e6
"""Rewards larger than this in size are refused: they are summed and squared in float32."""
ROUNDING, TOO_FAR = 1e-3, 1.0
"""By how many widths an observation may leave its Box unnoticed, and beyond which it is refused."""


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
        fault = reward_fault(reward, where)
        if fault is not None:
            raise RunFailure(f"{self._name} returned {fault}.")
        return observation, float(reward), bool(terminated), bool(truncated), info

    def _check(self, observation: Any, where: str) -> None:
        space = self.env.observation_space
        fault = observation_fault(space, observation, where)
        if fault is not None:
            raise RunFailure(f"{self._name} returned {fault}; correct the environment.")
        if excess(space, observation) > ROUNDING:
            # The same text each time: Python shows it once.
            warnings.warn(
                f"{self._name} returns observations that leave its observation_space; see `loopwm "
                f"check-env {self._name}` and correct the bounds.",
                stacklevel=3,
            )


def reward_fault(reward: Any, where: str) -> str | None:
    """What is wrong with a reward and how to mend it, to follow "returned"; None if nothing is."""
    try:
        value = float(reward)
    except (TypeError, ValueError):
        return f"the reward {reward!r} in {where}, which is no number; correct the environment"
    if not _fits_float32(value):
        return (
            f"the reward {value} in {where}, but rewards need to be finite in float32; correct the "
            "environment"
        )
    if abs(value) > REWARD_LIMIT:
        return (
            f"the reward {value:g} in {where}, but rewards need to lie within ±{REWARD_LIMIT:g}; "
            "scale them, as gymnasium.wrappers.TransformReward(env, lambda r: "
            f"{10.0 ** -math.ceil(math.log10(abs(value))):g} * r) does"
        )
    return None


def observation_fault(space: gym.Space, observation: Any, where: str) -> str | None:
    """What is wrong with an observation, to follow "returned"; None if a model can take it.

    Args:
        space: where it should lie; the parts of Dict and Tuple are looked at in turn.
        observation: what an environment returned.
        where: by which call.
    """
    if isinstance(space, gym.spaces.Dict | gym.spaces.Tuple):
        parts, keyed = parts_of(space), isinstance(space, gym.spaces.Dict)
        kind = Mapping if keyed else Sequence
        given = isinstance(observation, kind) and len(observation) == len(parts)
        if not given or (keyed and set(observation) != set(parts)):
            return (
                f"an observation in {where} without exactly the parts "
                f"{', '.join(map(str, parts))} of its observation_space"
            )
        faults = (
            observation_fault(part, observation[name], f"{where} at {name!r}")
            for name, part in parts.items()
        )
        return next((fault for fault in faults if fault is not None), None)
    shape = space.shape
    if shape is not None and np.shape(observation) != shape:
        return (
            f"an observation of shape {np.shape(observation)} in {where}, but its "
            f"observation_space has {shape}"
        )
    array = np.asarray(observation)
    if not np.issubdtype(array.dtype, np.number) and array.dtype != bool:
        return f"an observation of {array.dtype} in {where}, which holds no numbers"
    if not _fits_float32(array):
        return f"NaN or infinity in an observation in {where}, or a number too large for float32"
    if isinstance(space, gym.spaces.Box):
        outside = excess(space, array) > TOO_FAR or _uneven(space, array)
    else:
        counted = (gym.spaces.Discrete, gym.spaces.MultiDiscrete, gym.spaces.MultiBinary)
        outside = isinstance(space, counted) and not space.contains(observation)
    if outside:
        return (
            f"the observation {one_line(observation)} in {where}, which lies outside "
            f"{one_line(space)}"
        )
    return None


def excess(space: gym.Space, observation: Any) -> float:
    """How far an observation leaves its Box, or the Boxes that it has as parts; 0 if it does not.

    In widths of the Box, entry by entry; where one bound is infinite, in sizes of the other one, or
    of 1 if that is more.
    """
    if isinstance(space, gym.spaces.Dict | gym.spaces.Tuple):
        parts = parts_of(space).items()
        return max((excess(part, observation[name]) for name, part in parts), default=0.0)
    if not isinstance(space, gym.spaces.Box):
        return 0.0
    array = np.asarray(observation)
    if np.all(array >= space.low) and np.all(array <= space.high):
        return 0.0
    low, high, x = (np.asarray(a, np.float64) for a in (space.low, space.high, array))
    beyond = np.maximum(np.maximum(low - x, x - high), 0.0)
    finite = [np.where(np.isfinite(bound), np.abs(bound), 0.0) for bound in (low, high)]
    with np.errstate(invalid="ignore"):
        width = high - low
    known = np.isfinite(width) & (width > 0)
    return float(np.max(beyond / np.where(known, width, np.maximum(np.maximum(*finite), 1.0))))


def _uneven(space: gym.spaces.Box, array: np.ndarray) -> bool:
    """Whether an array of another type is none of integers inside a Box of them."""
    integer = np.issubdtype(space.low.dtype, np.integer) and array.dtype != space.low.dtype
    return integer and (excess(space, array) > 0.0 or bool(np.any(array != np.rint(array))))


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
