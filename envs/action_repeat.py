"""Decisions that last several env steps."""

import dataclasses
import numbers
from collections.abc import Callable
from typing import Any

import gymnasium as gym

from loopwm.envs.infos import true_depth


class ActionRepeat(gym.Wrapper):
    r"""Takes each action n times, or until the episode ends.

    One step of this environment is up to n of the one inside: its reward is their sum, its
    observation and info the last one's. The `true_depth` in info, where simulators report how many
    sequential micro-steps they needed, is the sum as well.
    """

    def __init__(self, env: gym.Env, times: int):
        """Args: the environment, and n, at least 1."""
        super().__init__(env)
        self.times = times
        if isinstance(rate := env.metadata.get("render_fps"), numbers.Real):
            # A frame a decision: a video plays as fast as what it shows.
            self.metadata = {**env.metadata, "render_fps": float(rate) / times}

    def step(self, action: Any):
        """Up to n steps of the environment inside."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        total, micro_steps = float(reward), true_depth(info)
        for _ in range(self.times - 1):
            if terminated or truncated:
                break
            observation, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            if micro_steps is not None:
                micro_steps += true_depth(info) or 0
        if micro_steps is not None:
            info = {**info, "true_depth": micro_steps}
        return observation, total, terminated, truncated, info


@dataclasses.dataclass(frozen=True)
class RepeatedSource:
    """An environment to be made, each action of which is taken several times."""

    source: str | Callable[[], gym.Env]
    """Gymnasium id, or a function that makes the environment."""
    times: int
    """Env steps an action is taken for, at least 1."""
