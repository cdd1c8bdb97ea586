"""Parameters at equal error, or at equal return, along two Pareto fronts."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from loopwm.evaluation.compare.statistics import bootstrap, iqm

_OPEN = 1e6
"""Logarithm that stands for "nothing is known beyond": larger than any ratio's."""


@dataclasses.dataclass(frozen=True)
class Point:
    """A family at one size and task."""

    params: float
    """Parameters of the world model that was built."""
    values: Float[np.ndarray, " seeds"]
    """What each seed reached; lower is better: see `lower_is_better`."""


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
    several tasks with bounds on both sides."""
    interval: bool
    """Whether there are seeds enough for an interval."""

    def content(self) -> dict[str, object]:
        """As plain data."""
        return dataclasses.asdict(self)


def reach(
    log_params: Float[np.ndarray, " sizes"], front: Float[np.ndarray, " sizes"], target: float
) -> tuple[float, bool]:
    """Logarithm of the parameters at which a falling front comes down to a target.

    Args:
        log_params: logarithms of the sizes, rising.
        front: running minimum of what is reached there.
        target: at least its last entry.

    Returns:
        The logarithm, by linear interpolation; and whether the smallest size is there already, so
        that the number is no more than an upper limit.
    """
    at = int(np.argmax(front <= target))
    if at == 0:
        return float(log_params[0]), bool(front[0] < target)
    share = (front[at - 1] - target) / (front[at - 1] - front[at])
    return float(log_params[at - 1] + share * (log_params[at] - log_params[at - 1])), False


def log_ratio(
    ours: tuple[np.ndarray, np.ndarray], theirs: tuple[np.ndarray, np.ndarray], slack: float = 0.0
) -> tuple[float, float]:
    r"""Bounds of log(parameters of the other over ours) at the smallest value that both reach.

    $$\log N_{\mathrm{theirs}}(y) - \log N_{\mathrm{ours}}(y), \qquad
    y = \max(\min_i \mathrm{ours}_i, \min_i \mathrm{theirs}_i) + \mathrm{slack}$$

    Args:
        ours: logarithms of sizes, rising, and what is reached at each; lower is better.
        theirs: the same of the other family.
        slack: how much worse than the best counts as equal.

    Returns:
        Lower and upper bound, equal where both fronts pass through y; ±10⁶ stands for none.
    """
    fronts = [np.minimum.accumulate(values) for _, values in (ours, theirs)]
    target = max(front[-1] for front in fronts) + slack
    (mine, mine_smaller), (other, other_smaller) = (
        reach(sizes, front, target)
        for (sizes, _), front in zip((ours, theirs), fronts, strict=True)
    )
    ratio = other - mine
    return (-_OPEN if other_smaller else ratio), (_OPEN if mine_smaller else ratio)


def iso_ratio(
    tasks: Sequence[tuple[Sequence[Point], Sequence[Point]]],
    *,
    logarithmic: bool,
    tolerance: float = 0.0,
) -> Ratio | None:
    """Parameters of another family over ours at equal error or return, over one or more tasks.

    A task's ratio is taken where the fronts of interquartile means reach the smallest value that
    both reach, by interpolation in log(parameters) and, for errors, log(error). Over several tasks
    it is their geometric mean. Seeds are resampled by family, size and task.

    Args:
        tasks: for each task our points and the other family's, at least two sizes each.
        logarithmic: whether the values are errors, whose logarithms are interpolated; returns,
            turned so that lower is better, are interpolated as they are.
        tolerance: share of the target that counts as equal (0.05: within 5 %).

    Returns:
        The ratio; None where no task has two sizes of both.
    """
    usable = [pair for pair in tasks if min(len(pair[0]), len(pair[1])) >= 2]
    if not usable:
        return None
    ordered = [tuple(sorted(points, key=lambda p: p.params) for points in pair) for pair in usable]
    strata = [point.values for pair in ordered for points in pair for point in points]

    def side(which: int):
        def statistic(*drawn: np.ndarray, axis: int = -1) -> np.ndarray:
            del axis
            middle = np.stack([iqm(values) for values in drawn])
            flat = middle.reshape(len(drawn), -1)
            found = [
                _mean_bounds(ordered, column, logarithmic, tolerance)[which] for column in flat.T
            ]
            return np.asarray(found).reshape(middle.shape[1:])

        return statistic

    low, high = bootstrap(side(0), strata), bootstrap(side(1), strata)
    estimate, bound = _estimate(low.estimate, high.estimate)
    return Ratio(
        low=None if low.low is None else _exp(low.low),
        estimate=estimate,
        high=None if high.high is None else _exp(high.high),
        bound=bound,
        interval=low.low is not None,
    )


def _mean_bounds(
    ordered: Sequence[tuple[list[Point], ...]],
    values: Float[np.ndarray, " strata"],
    logarithmic: bool,
    tolerance: float,
) -> tuple[float, float]:
    """Means over the tasks of both bounds; beyond any ratio's size where one is open."""
    bounds, at = [], 0
    for pair in ordered:
        sides = []
        for points in pair:
            reached = values[at : at + len(points)]
            at += len(points)
            sizes = np.log([point.params for point in points])
            sides.append((sizes, np.log(np.maximum(reached, 1e-12)) if logarithmic else reached))
        worst_best = max(float(np.min(reached)) for _, reached in sides)
        slack = np.log1p(tolerance) if logarithmic else tolerance * abs(worst_best)
        bounds.append(log_ratio(sides[0], sides[1], float(slack)))
    lows, highs = zip(*bounds, strict=True)
    return float(np.mean(lows)), float(np.mean(highs))


def _estimate(low: float, high: float) -> tuple[float | None, str]:
    below, above = _exp(low), _exp(high)
    if below is None:
        return above, ("open" if above is None else "at most")
    return (below, "at least") if above is None else (below, "exact")


def _exp(value: float) -> float | None:
    """The ratio of a logarithm; None where that stands for "nothing is known"."""
    return None if abs(value) > 1e3 else math.exp(value)
