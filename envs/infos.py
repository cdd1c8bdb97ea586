"""What is read of an environment's `info`."""

import operator
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

_LARGEST = 2**63 - 1


def true_depth(info: Mapping[str, Any]) -> int | None:
    """The sequential micro-steps that a simulator reports; None where it gives no whole number."""
    given: Any = info.get("true_depth")
    if isinstance(given, bool | np.bool_):
        return None
    try:
        depth = operator.index(given)
    except TypeError:
        return None
    return depth if abs(depth) <= _LARGEST else None


class DepthAlone(gym.Wrapper):
    """Leaves nothing in `info` but the true depth, if there is one.

    Gymnasium's vector environments join the infos of their environments to arrays, which fails
    where entries differ in type or shape.
    """

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Resets."""
        observation, info = self.env.reset(seed=seed, options=options)
        return observation, _alone(info)

    def step(self, action: Any):
        """Steps."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, terminated, truncated, _alone(info)


def _alone(info: Mapping[str, Any]) -> dict[str, Any]:
    depth = true_depth(info)
    return {} if depth is None else {"true_depth": depth}
