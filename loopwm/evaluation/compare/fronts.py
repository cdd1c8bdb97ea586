"""Parameters at equal error, or at equal return, along two Pareto fronts."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float

from loopwm.evaluation.compare.statistics import aligned, iqm, paired_bootstrap

_OPEN = 1e100
"""Logarithm that stands for "nothing is known beyond": finite, since quantiles are interpolated,
and larger than any ratio's when it is one of many in a mean."""


@dataclasses.dataclass(frozen=True)
class Point:
    """A family at one size and task."""

    params: float
    """Parameters of the world model that was built."""
    values: Mapping[int, float]
    """What was reached, by seed; lower is better."""


@dataclasses.dataclass(frozen=True)
class Ratio:
    """Parameters of another family over ours, at equal error: above 1, ours needs fewer."""

    low: float | None
    """Lower end of the 95 % interval; None where it is open, or where there is one seed."""
    estimate: float | None
    """None where nothing is known."""
    high: float | None
    """Upper end; None where it is open, or where there is one seed."""
    bound: str
    """`exact`; `at least`: the other family does not come down to what our smallest model reaches;
    `at most`: ours does not come down to what the other family's smallest model reaches; `open`:
    both, on several tasks or within the tolerance of one."""
    interval: bool
    """Whether there are seeds enough for an interval."""
    tasks: int = 1
    """Tasks that it rests on."""

    def content(self) -> dict[str, object]:
        """As plain data."""
        return dataclasses.asdict(self)


def reach(
    log_params: Float[np.ndarray, " sizes"],
    front: Float[np.ndarray, "sizes resamples"],
    target: Float[np.ndarray, " resamples"],
) -> tuple[Float[np.ndarray, " resamples"], Bool[np.ndarray, " resamples"]]:
    """Logarithm of the parameters at which falling fronts come down to targets.

    Args:
        log_params: logarithms of the sizes, rising.
        front: running minimum of what is reached there, of each resample.
        target: at least the front's last entry.

    Returns:
        The logarithms, by linear interpolation; and whether the smallest size is there already, so
        that the number is no more than an upper limit.
    """
    at = np.argmax(front <= target, axis=0)
    before, columns = np.maximum(at - 1, 0), np.arange(front.shape[1])
    high, low = front[before, columns], front[at, columns]
    inside = at > 0
    share = np.where(inside, (high - target) / np.where(inside, high - low, 1.0), 0.0)
    found = log_params[before] + share * (log_params[at] - log_params[before])
    return found, ~inside & (front[0] < target)


def log_ratio(
    ours: tuple[np.ndarray, np.ndarray],
    theirs: tuple[np.ndarray, np.ndarray],
    *,
    logarithmic: bool,
    tolerance: float = 0.0,
    least: float = -math.inf,
) -> tuple[np.ndarray, np.ndarray]:
    r"""Bounds of log(parameters of the other over ours) at the smallest value that both reach.

    $$\log N_{\mathrm{theirs}}(y) - \log N_{\mathrm{ours}}(y), \qquad
    y = \max(\min_i \mathrm{ours}_i, \min_i \mathrm{theirs}_i, \mathrm{least})$$

    and a little more where values within a tolerance of y count as equal.

    Args:
        ours: logarithms of sizes, rising, and what is reached at each, shape (sizes, resamples);
            lower is better.
        theirs: the same of the other family.
        logarithmic: whether the values are logarithms.
        tolerance: share by which a value may be worse than y.
        least: smallest y, a logarithm where the values are.

    Returns:
        Lower and upper bound of each resample, equal where both fronts pass through y; ±10¹⁰⁰
        stands for none.
    """
    fronts = [np.minimum.accumulate(values, axis=0) for _, values in (ours, theirs)]
    target = np.maximum(np.maximum(fronts[0][-1], fronts[1][-1]), least)
    target = target + (np.log1p(tolerance) if logarithmic else tolerance * np.abs(target))
    mine, mine_smaller = reach(ours[0], fronts[0], target)
    other, other_smaller = reach(theirs[0], fronts[1], target)
    ratio = other - mine
    return np.where(other_smaller, -_OPEN, ratio), np.where(mine_smaller, _OPEN, ratio)


def iso_ratio(
    tasks: Sequence[tuple[Sequence[Point], Sequence[Point]]],
    *,
    logarithmic: bool,
    tolerance: float = 0.0,
    solved: float | None = None,
) -> Ratio | None:
    """Parameters of another family over ours at equal error or return, over one or more tasks.

    A task's ratio is taken where the fronts of interquartile means reach the smallest value that
    both reach, by interpolation in log(parameters) and, for errors, log(error). Over several tasks
    it is their geometric mean. A task's seeds are resampled with all that was reached from them,
    by both families at all sizes, and only seeds that all of these have count.

    Args:
        tasks: for each task our points and the other family's, at least two sizes each.
        logarithmic: whether the values are errors, whose logarithms are interpolated; returns,
            turned so that lower is better, are interpolated as they are.
        tolerance: share of the target that counts as equal (0.05: within 5 %).
        solved: an error at which a task counts as solved: the ratio is taken there where both
            families come below it. The target has no such end when left out.

    Returns:
        The ratio; None where no task has two sizes of both with a seed in common.
    """
    ordered, groups = [], []
    for pair in tasks:
        if min(len(pair[0]), len(pair[1])) < 2:
            continue
        fronts = tuple(sorted(points, key=lambda p: p.params) for points in pair)
        group = aligned([point.values for points in fronts for point in points])
        if group.size:
            ordered.append(fronts)
            groups.append(group)
    if not groups:
        return None

    least = -math.inf if solved is None else (math.log(solved) if logarithmic else solved)

    def side(which: int):
        def statistic(*drawn: np.ndarray) -> np.ndarray:
            middle = np.concatenate([iqm(values) for values in drawn])
            flat = middle.reshape(len(middle), -1)
            found = _mean_bounds(ordered, flat, logarithmic, tolerance, least)[which]
            return found.reshape(middle.shape[1:])

        return statistic

    low, high = paired_bootstrap(side(0), groups), paired_bootstrap(side(1), groups)
    estimate, bound = _estimate(low.estimate, high.estimate)
    return Ratio(
        low=None if low.low is None else _exp(low.low),
        estimate=estimate,
        high=None if high.high is None else _exp(high.high),
        bound=bound,
        interval=low.low is not None,
        tasks=len(groups),
    )


def _mean_bounds(
    ordered: Sequence[tuple[list[Point], ...]],
    values: Float[np.ndarray, "points resamples"],
    logarithmic: bool,
    tolerance: float,
    least: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Means over the tasks of both bounds; beyond any ratio's size where one is open."""
    values = np.log(np.maximum(values, 1e-12)) if logarithmic else values
    bounds, at = [], 0
    for pair in ordered:
        sides = []
        for points in pair:
            sizes = np.log([point.params for point in points])
            sides.append((sizes, values[at : at + len(points)]))
            at += len(points)
        bounds.append(log_ratio(*sides, logarithmic=logarithmic, tolerance=tolerance, least=least))
    lows, highs = zip(*bounds, strict=True)
    return np.mean(lows, axis=0), np.mean(highs, axis=0)


def _estimate(low: float, high: float) -> tuple[float | None, str]:
    below, above = _exp(low), _exp(high)
    if below is None:
        return above, ("open" if above is None else "at most")
    return (below, "at least") if above is None else (below, "exact")


def _exp(value: float) -> float | None:
    """The ratio of a logarithm; None where that stands for "nothing is known"."""
    return None if abs(value) > 1e3 else math.exp(value)
