"""The environment that is checked, and what it did under random actions."""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeGuard

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec

from loopwm.envs.action_repeat import RepeatedSource
from loopwm.envs.faults import (
    excess,
    flag_fault,
    form_fault,
    info_fault,
    number,
    observation_fault,
    raised,
    reward_fault,
)
from loopwm.envs.limits import spec_of
from loopwm.envs.make import EnvSource, env_name, unguarded
from loopwm.errors import after_colon

ENOUGH_EPISODES, FEWEST_STEPS = 5, 200
"""Playing stops after so many episodes, if that made so many steps."""


@dataclasses.dataclass
class Play:
    """What random actions met, up to the first fault."""

    steps: int = 0
    observations: int = 0
    """Observations that a model can take."""
    lengths: list[int] = dataclasses.field(default_factory=list)
    """Steps of each episode that ended."""
    terminations: int = 0
    """Episodes that ended because the task did."""
    truncations: int = 0
    """Episodes that ended because time ran out."""
    rewards: list[float] = dataclasses.field(default_factory=list)
    excess: float = 0.0
    """By how many widths observations left their Box at most."""
    reset_seconds: list[float] = dataclasses.field(default_factory=list)
    step_seconds: list[float] = dataclasses.field(default_factory=list)
    fault: str | None = None
    """What ended it, to follow "it": a call that raised, or returned something of another form."""
    observation_fault: str | None = None
    """What was wrong with the first observation that no model can take."""
    reward_fault: str | None = None
    """What was wrong with the first reward that no model can take."""
    flags: tuple[str, ...] = ()
    """Types of terminated and truncated that are not bool."""

    @property
    def stopped(self) -> bool:
        """Whether nothing can follow."""
        return self.fault is not None or self.observation_fault is not None

    @property
    def faulty(self) -> bool:
        """Whether anything was met that no model can take."""
        return self.stopped or self.reward_fault is not None


class Subject:
    """An environment under check: made anew for each check, closed after it."""

    def __init__(self, source: EnvSource | gym.Env, steps: int, seed: int):
        """Reads the name and makes one instance.

        Args:
            source: id, function, or an instance, which is not closed.
            steps: random steps to make.
            seed: seed of environment and actions.

        Raises:
            UsageError: it cannot be made.
        """
        self.steps, self.seed = steps, seed
        self._given = source if isinstance(source, gym.Env) else None
        self._source: str | Callable[[], gym.Env] = ""
        self.close_fault: str | None = None
        """What went wrong when an instance was closed first, to follow "it"."""
        if not isinstance(source, gym.Env):
            # How often actions are repeated is no matter of the environment.
            self._source = source.source if isinstance(source, RepeatedSource) else source
            self.name = env_name(source)
        else:
            spec = spec_of(source)
            self.name = type(source.unwrapped).__name__ if spec is None else spec.id
        self.env = self._made() if self._given is None else self._given

    def _made(self) -> gym.Env:
        return unguarded(self._source)

    def another(self) -> gym.Env | None:
        """A second instance; None where only one was given and no spec tells how to make it."""
        if self._given is None:
            return self._made()
        if not remade(self._given.spec):
            return None
        try:
            return gym.make(self._given.spec)
        except Exception:
            return None

    def put_away(self, env: gym.Env) -> None:
        """Closes an instance, and keeps what is wrong with that."""
        try:
            env.close()
        except (Exception, SystemExit) as error:
            fault = f"raised {type(error).__name__} in close{after_colon(error)}"
            self.close_fault = self.close_fault or fault

    def close(self) -> bool:
        """Closes the instance, unless it was given; whether that was so."""
        if self._given is None:
            self.put_away(self.env)
        return self._given is None

    @functools.cached_property
    def play(self) -> Play:
        """Random steps, the same for every check that looks at them."""
        play, space = Play(), self.env.action_space
        space.seed(self.seed)
        while not play.stopped and play.steps < self.steps:
            if len(play.lengths) >= ENOUGH_EPISODES and play.steps >= FEWEST_STEPS:
                break
            seed = self.seed if not play.reset_seconds else None
            self._episode(play, space, seed)
        return play

    def _episode(self, play: Play, space: gym.Space, seed: int | None) -> None:
        # With all that training passes.
        given = called(self.env.reset, 2, "reset", play.reset_seconds, seed=seed, options=None)
        if isinstance(given, str):
            play.fault = given
            return
        self._see(play, given[0], "reset")
        play.fault = _returned(info_fault(given[1], "reset"))
        length = 0
        while play.steps < self.steps and not play.stopped:
            where = f"step {play.steps + 1}"
            given = called(self.env.step, 5, where, play.step_seconds, space.sample())
            if isinstance(given, str):
                play.fault = given
                return
            observation, reward, terminated, truncated, info = given
            play.steps, length = play.steps + 1, length + 1
            self._see(play, observation, where)
            play.reward_fault = play.reward_fault or reward_fault(reward, where)
            if play.reward_fault is None:
                play.rewards.append(number(reward))
            play.fault = _returned(
                flag_fault("terminated", terminated, where)
                or flag_fault("truncated", truncated, where)
                or info_fault(info, where)
            )
            if play.fault is not None:
                return
            flags = {type(f).__name__ for f in (terminated, truncated)} - {"bool", "bool_"}
            play.flags = tuple(sorted({*play.flags, *flags}))
            if terminated or truncated:
                play.lengths.append(length)
                play.terminations += bool(terminated)
                play.truncations += bool(truncated)
                return

    def _see(self, play: Play, observation: Any, where: str) -> None:
        space = self.env.observation_space
        play.observation_fault = observation_fault(space, observation, where)
        if play.observation_fault is None:
            play.observations += 1
            play.excess = max(play.excess, excess(space, observation))


def _returned(fault: str | None) -> str | None:
    return None if fault is None else f"returned {fault}"


def remade(spec: EnvSpec | None) -> TypeGuard[EnvSpec]:
    """Whether there is a spec that makes the environment again, with all its wrappers.

    Of a wrapper that is no `gymnasium.utils.RecordConstructorArgs` no arguments are known.
    """
    return isinstance(spec, EnvSpec) and all(
        one.kwargs is not None for one in spec.additional_wrappers
    )


def called(
    function: Callable[..., Any], parts: int, where: str, seconds: list[float], *args: Any, **kwargs
) -> tuple[Any, ...] | str:
    """Calls reset or step: what it returns, or what is wrong with it as a clause.

    Args:
        function: `reset` or `step`.
        parts: length of the tuple that it should return.
        where: name of the call, for the clause.
        seconds: takes the time of the call.
        *args: arguments of the call.
        **kwargs: keyword arguments of the call.
    """
    began = time.perf_counter()
    try:
        given = function(*args, **kwargs)
    except (Exception, SystemExit) as error:
        return raised(error, where, parts)
    seconds.append(time.perf_counter() - began)
    fault = form_fault(given, where, parts)
    return given if fault is None else f"returned {fault}"


def median(values: Sequence[float] | Sequence[int]) -> float:
    """The median; NaN of nothing."""
    return float(np.median(values)) if values else float("nan")
