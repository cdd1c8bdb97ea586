"""Checks of an environment's spaces and interface."""

import contextlib
import re
import warnings
from collections.abc import Callable, Iterator

import gymnasium as gym
from gymnasium.utils.env_checker import check_env as check_by_gymnasium

from loopwm.envs.actions import action_codec
from loopwm.envs.checks.finding import Finding, Level
from loopwm.envs.checks.subject import Subject
from loopwm.envs.codec import one_line
from loopwm.envs.make import missing_spaces
from loopwm.envs.observations import observation_codec
from loopwm.errors import UsageError, after_colon, as_clause

_STANDARD = (
    gym.wrappers.TimeLimit,
    gym.wrappers.OrderEnforcing,
    gym.wrappers.PassiveEnvChecker,
)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def check_spaces(subject: Subject) -> Iterator[Finding]:
    """Both spaces can be encoded."""
    env, missing = subject.env, missing_spaces(subject.env)
    kinds: dict[str, Callable[[gym.Space], object]] = {
        "observation": observation_codec,
        "action": action_codec,
    }
    for kind, codec in kinds.items():
        name = f"{kind} space"
        if f"{kind}_space" in missing:
            yield Finding(
                name,
                Level.ERROR,
                f"The environment has no {kind}_space; give it one of gymnasium.spaces.",
            )
            continue
        space = getattr(env, f"{kind}_space")
        try:
            codec(space)
        except UsageError as error:
            yield Finding(name, Level.ERROR, str(error))
        else:
            yield Finding(name, Level.OK, f"{one_line(space)} is supported.")


def check_gymnasium(subject: Subject) -> Iterator[Finding]:
    """Gymnasium's own checker, with each of its warnings."""
    fresh = subject.another()
    env = subject.env if fresh is None else fresh
    # It wants to see the environment itself; other wrappers than Gymnasium's belong to it.
    seen = env
    while isinstance(seen, _STANDARD):
        seen = seen.env
    env.action_space.seed(subject.seed)
    failure: str | None = None
    with warned() as caught:
        try:
            # Rendering and closing have checks of their own, which need no spec.
            check_by_gymnasium(seen, skip_render_check=True, skip_close_check=True)
        except (Exception, SystemExit) as error:
            failure = f"{type(error).__name__}{after_colon(error)}"
        if fresh is not None:
            subject.put_away(fresh)
    told = [text for text in caught if seen is env.unwrapped or "unwrapped version" not in text]
    for text in told:
        yield Finding(
            "gymnasium", Level.WARNING, f"Gymnasium's checker warns: {text}; correct it if need be."
        )
    if failure is not None:
        yield Finding(
            "gymnasium",
            Level.ERROR,
            f"Gymnasium's checker fails with {failure}; correct the environment.",
        )
    elif not told:
        yield Finding("gymnasium", Level.OK, "Gymnasium's checker finds nothing to mend.")


@contextlib.contextmanager
def warned() -> Iterator[list[str]]:
    """Collects warnings, each as a clause; all of them, whatever is filtered or was shown."""
    texts: list[str] = []
    level, gym.logger.min_level = gym.logger.min_level, gym.logger.WARN
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield texts
        finally:
            gym.logger.min_level = level
            plain = (_COLOUR.sub("", str(one.message)).removeprefix("WARN: ") for one in caught)
            texts.extend(dict.fromkeys(map(as_clause, plain)))
