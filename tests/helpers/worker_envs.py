"""Environments that go wrong in their own process, registered as worker_envs:NAME-v0.

Spaces are those of CartPole-v1. Each goes wrong only in a worker process, at its 40th step, so that
learning has begun.
"""

import multiprocessing
import os
import signal
import time
from typing import Any

import gymnasium as gym
import numpy as np

FAULT_AT = 40


class Faulty(gym.Env):
    """Works until its fault shows; episodes last 10 steps."""

    observation_space = gym.spaces.Box(-10.0, 10.0, (4,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, fault: str = "none", at: int = FAULT_AT):
        self.fault, self.at, self.steps = fault, at, 0
        self.worker = multiprocessing.parent_process() is not None
        if self.worker and fault == "constructor":
            raise OSError("no licence left")

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self.moment = 0
        return self.np_random.normal(size=4).astype(np.float32), {"pid": os.getpid()}

    def step(self, action: int):
        self.steps += 1
        self.moment += 1
        if self.worker and self.steps == self.at:
            if self.fault == "dies":
                os._exit(7)
            if self.fault == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.fault == "hangs":
                time.sleep(3600)
            if self.fault == "raises":
                raise ValueError("the arm hit\nthe table.")
            if self.fault == "unpicklable":
                raise Unpicklable(lambda: None)
        observation = self.np_random.normal(size=4).astype(np.float32)
        return observation, 1.0, self.moment >= 10, False, {}


class Unpicklable(Exception):
    """Cannot be sent to another process."""


for _fault in ("none", "constructor", "dies", "killed", "hangs", "raises", "unpicklable"):
    gym.register(f"{_fault}-v0", entry_point=Faulty, kwargs={"fault": _fault})
