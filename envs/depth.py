"""Transitions with the true depth of each, and ranges of depth."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64, Shaped

from loopwm.envs.arguments import whole
from loopwm.errors import UsageError


@dataclasses.dataclass(frozen=True)
class DepthTransitions:
    """Independent transitions of an environment, as its `step` would give them."""

    observation: Float32[np.ndarray, "count *shape"]
    """Before the action, in the environment's observation space, shape (count, *shape)."""
    action: Shaped[np.ndarray, "count *axes"]
    """Actions of the environment's action space, shape (count, *axes)."""
    next_observation: Float32[np.ndarray, "count *shape"]
    """After the action, shape (count, *shape)."""
    true_depth: Int32[np.ndarray, " count"]
    """Sequential micro-steps that the simulator needs for each, shape (count,)."""


def draw_depths(
    rng: np.random.Generator, count: int, limits: tuple[int, int]
) -> Int64[np.ndarray, " count"]:
    """Depths drawn uniformly from a range, its ends included; shape (count,)."""
    return rng.integers(limits[0], limits[1] + 1, count)


def depth_limits(
    what: str, shortest: Any, longest: Any, exactly: Any, high: int
) -> tuple[int, int]:
    """The range of depths that a sampler draws from.

    Args:
        what: what is counted, for messages.
        shortest: smallest depth.
        longest: largest depth; None for the largest that fits.
        exactly: the only depth, instead of the other two; None for a range.
        high: the largest depth that fits.

    Returns:
        Smallest and largest depth.

    Raises:
        UsageError: a depth that does not fit, an empty range, or `exactly` beside the others.
    """
    if exactly is not None:
        if shortest != 0 or longest is not None:
            raise UsageError(
                f"exactly is {exactly} beside shortest {shortest} and longest {longest}; give "
                "either exactly, or the other two."
            )
        only = whole(f"{what} exactly", exactly, 0, high)
        return only, only
    most = high if longest is None else whole(f"{what} longest", longest, 0, high)
    return whole(f"{what} shortest", shortest, 0, most), most


def cut_runs(
    rng: np.random.Generator, blocked: Bool[np.ndarray, "lines length"], longest: int
) -> None:
    """Blocks free cells, in place, until no line has more than `longest` free ones in a row.

    Lines are read from their first cell; a run that grows too long is blocked at one of its cells,
    drawn uniformly.

    Args:
        rng: where the blocked cells are drawn from.
        blocked: which cells are blocked, shape (lines, length); changed.
        longest: free cells that a run may have, at least 1.
    """
    for line in blocked:
        begin = 0
        for place in range(len(line)):
            if line[place]:
                begin = place + 1
            elif place - begin == longest:
                cut = int(rng.integers(begin, place + 1))
                line[cut] = True
                begin = cut + 1
