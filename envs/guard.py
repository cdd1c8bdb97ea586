"""A wrapper that turns an environment's faults into one clear sentence."""

import copy
import warnings
from typing import Any, NoReturn

import gymnasium as gym

from loopwm.envs.faults import (
    ROUNDING,
    excess,
    flag_fault,
    fresh,
    info_fault,
    number,
    observation_fault,
    reward_fault,
)
from loopwm.errors import RunFailure, UsageError, after_colon, as_clause


class GuardedEnv(gym.Wrapper):
    """Checks what an environment returns and names what is wrong with it.

    Neither side can change what the other one holds: actions are handed on as copies, and
    observations as copies in the types of their space.
    """

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
        # An environment that calls sys.exit would end the run as if all was well.
        except (Exception, SystemExit) as error:
            self._raised(error, "reset")
        self._refuse(info_fault(info, "reset"))
        return self._checked(observation, "reset"), info

    def step(self, action: Any):
        """Steps; a fault is a `RunFailure`."""
        self._steps += 1
        where = f"step {self._steps}"
        try:
            given = self.env.step(copy.deepcopy(action))
            observation, reward, terminated, truncated, info = given
        except (Exception, SystemExit) as error:
            self._raised(error, where)
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

    def _raised(self, error: BaseException, where: str) -> NoReturn:
        raise RunFailure(
            f"{self._name} raised {type(error).__name__} in {where}{after_colon(error)}; correct "
            "the environment."
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
