"""Checks of what an environment does under random actions."""

from collections.abc import Iterator

import gymnasium as gym
import numpy as np

from loopwm.envs.checks.finding import Finding, Level
from loopwm.envs.checks.subject import Subject, called, median
from loopwm.envs.faults import ROUNDING
from loopwm.envs.limits import time_limit
from loopwm.envs.make import OTHER_SPACES, SAME_AGAIN, innermost, spaces_of

SEEDED_STEPS = 50
"""Steps that runs of the same seed are compared over."""
SLOW_STEP = 5e-3
"""Seconds a step from which on worker processes are worth it."""


def check_steps(subject: Subject) -> Iterator[Finding]:
    """Reset and step work, and return what Gymnasium's interface says."""
    play = subject.play
    if play.fault is not None:
        yield Finding("steps", Level.ERROR, f"It {play.fault}; correct the environment.")
    elif play.observation_fault is None:
        done = f"{play.steps} random steps in {len(play.reset_seconds)} episodes"
        yield Finding("steps", Level.OK, f"{done} went through.")


def check_observations(subject: Subject) -> Iterator[Finding]:
    """Observations lie in their space."""
    play = subject.play
    if play.observation_fault is not None:
        yield Finding(
            "observations",
            Level.ERROR,
            f"It returned {play.observation_fault}; correct the environment.",
        )
    elif play.excess > ROUNDING:
        yield Finding(
            "observations",
            Level.WARNING,
            f"Observations leave their Box by up to {play.excess:.2g} of its width; correct the "
            "bounds, or give infinite ones.",
        )
    elif play.observations:
        yield Finding("observations", Level.OK, "All observations lie in their space.")


def check_rewards(subject: Subject) -> Iterator[Finding]:
    """Rewards are finite numbers, and not huge."""
    play = subject.play
    if play.reward_fault is not None:
        yield Finding("rewards", Level.ERROR, f"It returned {play.reward_fault}.")
    elif play.rewards and max(play.rewards) == min(play.rewards):
        yield Finding(
            "rewards",
            Level.OK,
            f"Random actions met no other reward than {play.rewards[0]:g}.",
        )
    elif play.rewards:
        low, high = min(play.rewards), max(play.rewards)
        yield Finding("rewards", Level.OK, f"Rewards lie between {low:g} and {high:g}.")


def check_seeding(subject: Subject) -> Iterator[Finding]:
    """The same seed gives the same episode: again, and in another instance."""
    if subject.play.faulty:
        return
    name, first = "seeding", _trace(subject.env, subject.seed)
    if not _same(first, _trace(subject.env, subject.seed)):
        yield Finding(
            name,
            Level.ERROR,
            "Resetting with the same seed again gives another episode; correct it to draw "
            "everything random from self.np_random after super().reset(seed=seed), and to reset "
            "all state.",
        )
        return
    other = subject.another()
    if other is None:
        yield Finding(
            name,
            Level.WARNING,
            "The same seed gives the same episode again, but instances could not be compared; "
            "give an id or a function to make a second one.",
        )
        return
    try:
        again = innermost(subject.env) is innermost(other)
        alike = spaces_of(subject.env) == spaces_of(other)
        fault = SAME_AGAIN if again else None if alike else OTHER_SPACES
        same = fault is None and _same(first, _trace(other, subject.seed))
    finally:
        subject.put_away(other)
    if fault is not None:
        yield Finding(name, Level.ERROR, f"It {fault}.")
    elif same:
        yield Finding(name, Level.OK, "The same seed gives the same episode.")
    else:
        yield Finding(
            name,
            Level.ERROR,
            "Two instances give different episodes for the same seed; correct it to draw "
            "everything random from self.np_random after super().reset(seed=seed), and to share "
            "no state between instances.",
        )


def check_episode_end(subject: Subject) -> Iterator[Finding]:
    """Episodes end under random actions."""
    play, limit = subject.play, time_limit(subject.env)
    if play.lengths:
        yield Finding(
            "episode end",
            Level.OK,
            f"{len(play.lengths)} episodes ended, after {median(play.lengths):g} steps in the "
            f"median ({play.terminations} terminated, {play.truncations} truncated).",
        )
    elif limit is not None:
        yield Finding(
            "episode end",
            Level.OK,
            f"No episode ended within {play.steps} steps, but the time limit of {limit} ends each.",
        )
    elif not play.faulty:
        yield Finding(
            "episode end",
            Level.ERROR,
            f"No episode ended within {play.steps} random steps and there is no time limit; use "
            "gymnasium.wrappers.TimeLimit(env, max_episode_steps=...), register it with "
            "max_episode_steps, or set collection.longest_episode=null if the task goes on "
            "forever.",
        )


def check_time_limit(subject: Subject) -> Iterator[Finding]:
    """A time limit is there, of Gymnasium or of the environment's own."""
    play, limit = subject.play, time_limit(subject.env)
    if limit is not None:
        yield Finding("time limit", Level.OK, f"Episodes are truncated after {limit} steps.")
    elif play.truncations:
        yield Finding("time limit", Level.OK, "The environment truncates episodes by itself.")
    else:
        yield Finding(
            "time limit",
            Level.WARNING,
            "No time limit was found, and an agent may find ways that random actions do not to "
            "make an episode last; use gymnasium.wrappers.TimeLimit(env, max_episode_steps=...), "
            "or register it with max_episode_steps.",
        )


def check_termination(subject: Subject) -> Iterator[Finding]:
    """Termination is told from truncation, after which values are bootstrapped."""
    play = subject.play
    alike = len(play.lengths) >= 3 and len(set(play.lengths)) == 1 and play.lengths[0] > 1
    if play.flags:
        yield Finding(
            "termination",
            Level.WARNING,
            f"terminated or truncated is a {' and a '.join(play.flags)}; correct it to be a bool.",
        )
    if alike and play.terminations == len(play.lengths) and play.truncations == 0:
        yield Finding(
            "termination",
            Level.WARNING,
            f"Every episode terminated after exactly {play.lengths[0]} steps; if time ran out, "
            "correct it to return truncated=True, since values are not bootstrapped after "
            "termination.",
        )
    elif play.lengths and not play.flags:
        yield Finding(
            "termination",
            Level.OK,
            f"{play.terminations} episodes terminated and {play.truncations} were truncated, each "
            "followed by a reset.",
        )


def check_cost(subject: Subject) -> Iterator[Finding]:
    """What a step and a reset take."""
    play = subject.play
    if not play.step_seconds:
        return
    step, reset = median(play.step_seconds), median(play.reset_seconds)
    message = f"A step takes {1e6 * step:.0f} µs and a reset {1e6 * reset:.0f} µs in the median"
    if step >= SLOW_STEP:
        message += "; use several with collection.envs and set collection.vector=async"
    yield Finding("cost", Level.OK, f"{message}.")


def check_closing(subject: Subject) -> Iterator[Finding]:
    """Instances can be closed, and closed again; it ends the checks."""
    own = subject.close() and subject.close()
    if subject.close_fault is not None:
        yield Finding(
            "closing", Level.WARNING, f"It {subject.close_fault}; correct the environment."
        )
    elif own:
        yield Finding("closing", Level.OK, "Closing it, and closing it again, went through.")
    else:
        yield Finding("closing", Level.OK, "Not checked, since the instance given stays open.")


def _trace(env: gym.Env, seed: int) -> list[object]:
    """Observations, rewards and flags of an episode with fixed actions."""
    space = env.action_space  # one object, though it may be a property that makes a new one
    space.seed(seed)
    given = called(env.reset, 2, "reset", [], seed=seed, options=None)
    trace: list[object] = [given if isinstance(given, str) else _copied(given[0])]
    for _ in range(SEEDED_STEPS):
        given = called(env.step, 5, "step", [], space.sample())
        # Copied, since an environment may write into the array that it returned.
        trace.append(given if isinstance(given, str) else _copied(given[:4]))
        if isinstance(given, str) or given[2] or given[3]:
            break
    return trace


def _copied(value: object) -> object:
    if isinstance(value, dict):
        return {key: _copied(part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return tuple(_copied(part) for part in value)
    return np.array(value)


def _same(one: object, other: object) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, tuple | list) and isinstance(other, tuple | list):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(np.array_equal(np.asarray(one), np.asarray(other)))
