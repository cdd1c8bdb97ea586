"""A wrapper that turns an environment's faults into one clear sentence."""

import copy
import warnings
from collections.abc import Mapping
from typing import Any, NoReturn

import gymnasium as gym

from loopwm.envs.faults import (
    ROUNDING,
    excess,
    flag_fault,
    form_fault,
    fresh,
    info_fault,
    number,
    observation_fault,
    raised,
    reward_fault,
)
from loopwm.errors import RunFailure, UsageError, after_colon, as_clause

SEEDS = 2**31
"""Seeds are below this: many simulators hold theirs in 32 bits with a sign."""


class GuardedEnv(gym.Wrapper):
    """Checks what an environment returns and names what is wrong with it.

    Neither side can change what the other one holds: actions are handed on as copies, and
    observations as copies in the types of their space. Seeds come as simulators take them, whatever
    a run or a vector environment made of the user's.
    """

    def __init__(self, env: gym.Env, name: str):
        """Args: the environment, and its name for messages."""
        super().__init__(env)
        self._name = name
        self._steps = 0
        if not isinstance(env.metadata, Mapping):
            self.metadata = {}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Resets; a fault is a `RunFailure`, a missing package a `UsageError`."""
        if seed is not None and seed >= SEEDS:
            seed %= SEEDS
        try:
            given = self.env.reset(seed=seed, options=options)
        except gym.error.DependencyNotInstalled as error:
            raise missing_package(self._name, error) from error
        # An environment that calls sys.exit would end the run as if all was well.
        except (Exception, SystemExit) as error:
            self._raised(error, "reset", 2)
        self._refuse(form_fault(given, "reset", 2))
        observation, info = given
        self._refuse(info_fault(info, "reset"))
        return self._checked(observation, "reset"), info

    def step(self, action: Any):
        """Steps; a fault is a `RunFailure`."""
        self._steps += 1
        where = f"step {self._steps}"
        try:
            given = self.env.step(copy.deepcopy(action))
        except (Exception, SystemExit) as error:
            self._raised(error, where, 5)
        self._refuse(form_fault(given, where, 5))
        observation, reward, terminated, truncated, info = given
        observation = self._checked(observation, where)
        fault = reward_fault(reward, where)
        if fault is not None:
            raise RunFailure(f"{self._name} returned {fault}.")
        self._refuse(flag_fault("terminated", terminated, where))
        self._refuse(flag_fault("truncated", truncated, where))
        self._refuse(info_fault(info, where))
        return observation, number(reward), bool(terminated), bool(truncated), info

    def close(self) -> None:
        """Closes; a fault is a warning, since it would hide why the environment is closed."""
        try:
            super().close()
        except (Exception, SystemExit) as error:
            # The same text each time: Python shows it once.
            warnings.warn(
                f"{self._name} raised {type(error).__name__} in close{after_colon(error)}; correct "
                "the environment.",
                stacklevel=2,
            )

    def _raised(self, error: BaseException, where: str, parts: int) -> NoReturn:
        raise RunFailure(
            f"{self._name} {raised(error, where, parts)}; correct the environment."
        ) from error

    def _refuse(self, fault: str | None) -> None:
        if fault is not None:
            raise RunFailure(f"{self._name} returned {fault}; correct the environment.")

    def _checked(self, observation: Any, where: str) -> Any:
        """The observation in a form of its own, after all checks."""
        space = self.env.observation_space
        self._refuse(observation_fault(space, observation, where))
        if excess(space, observation) > ROUNDING:
            # The same text each time: Python shows it once.
            warnings.warn(
                f"{self._name} returns observations that leave its observation_space; see `loopwm "
                f"check-env {self._name}` and correct the bounds.",
                stacklevel=3,
            )
        return fresh(space, observation)


def missing_package(name: str, error: gym.error.DependencyNotInstalled) -> UsageError:
    """Says what an environment needs and how to get it."""
    text = as_clause(error)
    remedy = "install it and try again"
    if "mujoco" in text.lower():
        remedy = 'install it with pip install "loopwm[mujoco]"'
    elif "pygame" in text.lower() or "classic-control" in text.lower():
        remedy = 'install it with pip install "loopwm[video]"'
    return UsageError(f"'{name}' needs a package that is not installed: {text}; {remedy}.")
