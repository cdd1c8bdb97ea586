"""What may be wrong with what an environment returns, each fault as a clause; and copies of it."""

import copy
import math
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from loopwm.envs.codec import has_parts, one_line, parts_of
from loopwm.errors import after_colon

REWARD_LIMIT = 1e6
"""Rewards larger than this in size are refused: they are summed and squared in float32."""
OBSERVATION_LIMIT = 1e18
"""Entries larger than this in size are refused: their squares would be too large for float32."""
ROUNDING, TOO_FAR = 1e-3, 1.0
"""By how many widths an observation may leave its Box unnoticed, and beyond which it is refused."""
RETURNED = {2: "(observation, info)", 5: "(observation, reward, terminated, truncated, info)"}
"""What reset and step return, by the number of its parts."""
_ARRAYS = (gym.spaces.Box, gym.spaces.MultiDiscrete, gym.spaces.MultiBinary)


def raised(error: BaseException, where: str, parts: int) -> str:
    """What reset or step raised, as a clause; `parts` are those of the tuple it should return."""
    clause = f"raised {type(error).__name__} in {where}{after_colon(error)}"
    # A wrapper that unpacks what an environment written for an older interface returned.
    if f"to unpack (expected {parts}" in str(error):
        clause += f", where Gymnasium expects {RETURNED[parts]}"
    return clause


def form_fault(given: Any, where: str, parts: int) -> str | None:
    """What is wrong with the form of what reset or step returned, to follow "returned"."""
    if isinstance(given, tuple) and len(given) == parts:
        return None
    what = f"a tuple of {len(given)}" if isinstance(given, tuple) else type(given).__name__
    return f"{what} in {where}, where Gymnasium expects {RETURNED[parts]}"


def number(reward: Any) -> float:
    """A reward as a float, that of an array with one entry too; an exception where it is none."""
    # Python and NumPy make numbers of these, with a warning at most.
    kind = getattr(getattr(reward, "dtype", None), "kind", None)
    if isinstance(reward, str | bytes) or kind in {*"cmMSU"} or np.ma.is_masked(reward):
        raise TypeError("not a real number")
    return float(reward.item() if getattr(reward, "shape", ()) else reward)


def reward_fault(reward: Any, where: str) -> str | None:
    """What is wrong with a reward and how to mend it, to follow "returned"; None if nothing is."""
    try:
        value = number(reward)
    except OverflowError:
        return (
            f"a reward in {where} that no float can hold, but rewards need to be finite in "
            "float32; correct the environment"
        )
    except Exception:
        given = one_line(repr(reward))
        return f"the reward {given} in {where}, which is no number; correct the environment"
    if not _fits(value, np.float32):
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


def flag_fault(name: str, flag: Any, where: str) -> str | None:
    """What is wrong with `terminated` or `truncated`, to follow "returned"; None if nothing is."""
    try:
        # Texts and lists are true, whatever they say.
        known = bool(flag == bool(flag))
    except Exception:
        known = False
    if known:
        return None
    return f"{name} as a {type(flag).__name__} in {where} that is neither true nor false"


def info_fault(info: Any, where: str) -> str | None:
    """What is wrong with an info, to follow "returned"; None if nothing is."""
    if isinstance(info, Mapping):
        return None
    return f"an info of type {type(info).__name__} in {where}, where Gymnasium expects a dict"


def observation_fault(space: gym.Space, observation: Any, where: str) -> str | None:
    """What is wrong with an observation, to follow "returned"; None if a model can take it.

    Args:
        space: where it should lie; the parts of Dict and Tuple are looked at in turn.
        observation: what an environment returned.
        where: by which call.
    """
    if isinstance(space, gym.spaces.Dict | gym.spaces.Tuple):
        parts = parts_of(space)
        if not has_parts(space, observation):
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
    try:
        array = np.asarray(observation)
    except Exception:
        kind = type(observation).__name__
        return f"an observation in {where} that is a {kind} and no array of numbers"
    if shape is not None and array.shape != shape:
        return (
            f"an observation of shape {array.shape} in {where}, but its observation_space has "
            f"{shape}"
        )
    if array.dtype.kind not in "biuf":
        return f"an observation of {array.dtype} in {where}, which holds no numbers"
    narrow = space.dtype == np.float16
    if not _fits(array, np.float16 if narrow else np.float32):
        kind = "float16" if narrow else "float32"
        return f"NaN or infinity in an observation in {where}, or a number too large for {kind}"
    if array.dtype.kind == "f" and float(np.abs(array).max(initial=0.0)) > OBSERVATION_LIMIT:
        return (
            f"a number beyond ±{OBSERVATION_LIMIT:g} in an observation in {where}, too large to be "
            "normalised (gymnasium.wrappers.TransformObservation scales or clips it)"
        )
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
    with np.errstate(invalid="ignore", over="ignore"):
        width = high - low
    known = np.isfinite(width) & (width > 0)
    return float(np.max(beyond / np.where(known, width, np.maximum(np.maximum(*finite), 1.0))))


def fresh(space: gym.Space, observation: Any) -> Any:
    """A copy of an observation without fault, in the types that its space says.

    Environments may write into what they returned, and vector environments put observations
    together without conversion.
    """
    if isinstance(space, gym.spaces.Dict):
        return {name: fresh(part, observation[name]) for name, part in space.spaces.items()}
    if isinstance(space, gym.spaces.Tuple):
        return tuple(fresh(part, observation[place]) for place, part in enumerate(space.spaces))
    if isinstance(space, gym.spaces.Discrete):
        return space.dtype.type(observation)
    if isinstance(space, _ARRAYS):
        return np.array(observation, dtype=space.dtype)
    return copy.deepcopy(observation)


def _uneven(space: gym.spaces.Box, array: np.ndarray) -> bool:
    """Whether a Box of integers or bools cannot take an array of another type as it is."""
    if space.dtype.kind not in "biu" or array.dtype == space.dtype:
        return False
    return excess(space, array) > 0.0 or bool(np.any(array != np.rint(array)))


def _fits(value: float | np.ndarray, dtype: type[np.floating]) -> bool:
    with np.errstate(over="ignore"):
        return bool(np.all(np.isfinite(np.asarray(value).astype(dtype))))
