"""Interquartile means, bootstrap intervals with and without pairs, performance profiles."""

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Num
from scipy import stats

RESAMPLES = 2_000
"""Resamples of a bootstrap."""
CONFIDENCE = 0.95

Statistic = Callable[..., np.ndarray | float]
"""From an array for each stratum or group, seeds on the last axis, to a number for each of the axes
of resamples."""


@dataclasses.dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval."""

    estimate: float
    low: float | None
    """None where a stratum has one seed, which says nothing about the spread."""
    high: float | None

    def content(self) -> dict[str, float | None]:
        """As plain data."""
        return dataclasses.asdict(self)


def iqm(values: Float[np.ndarray, "*axes seeds"]) -> np.ndarray:
    """Interquartile mean over the last axis: the mean without the lowest and highest quarter.

    A quarter of the number of values is rounded down, so of five values the middle three count.

    Source: Agarwal et al. 2021, "Deep RL at the edge of the statistical precipice" (2108.13264).
    """
    return np.asarray(stats.trim_mean(values, 0.25, axis=-1))


def pooled_iqm(*strata: np.ndarray, axis: int = -1) -> np.ndarray:
    """Interquartile mean of all strata together; `axis` is the last one."""
    del axis
    return iqm(np.concatenate(strata, axis=-1))


def bootstrap(
    statistic: Statistic, strata: Sequence[Num[np.ndarray, " _"]], *, seed: int = 0
) -> Interval:
    """An estimate with its stratified percentile bootstrap interval: seeds are drawn by stratum.

    Args:
        statistic: from the strata to a number; it also gets an `axis`, which is the last one.
        strata: one array of seeds for each task, size or family that the number depends on.
        seed: seed of the resamples.

    Returns:
        The estimate and its interval; no interval where a stratum has fewer than two seeds.
    """
    estimate = float(statistic(*strata, axis=-1))
    if min(len(values) for values in strata) < 2:
        return Interval(estimate, None, None)
    with warnings.catch_warnings():
        # Seeds that agree have an interval of no width, which is what they say.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        found = stats.bootstrap(
            tuple(strata),
            statistic,
            n_resamples=RESAMPLES,
            confidence_level=CONFIDENCE,
            method="percentile",
            vectorized=True,
            paired=False,
            rng=np.random.default_rng(seed),
        )
    return Interval(
        estimate, float(found.confidence_interval.low), float(found.confidence_interval.high)
    )


def aligned(samples: Sequence[Mapping[int, float]]) -> Float[np.ndarray, "samples seeds"]:
    """Values of the seeds that all samples have, seed by seed in the same column.

    Args:
        samples: what was reached, by seed.
    """
    seeds = sorted(set.intersection(*(set(sample) for sample in samples)))
    return np.array([[sample[seed] for seed in seeds] for sample in samples], np.float64)


def paired_bootstrap(
    statistic: Statistic,
    groups: Sequence[Float[np.ndarray, "_ _"]],
    *,
    seed: int = 0,
) -> Interval:
    """An estimate with its interval where seeds have something in common, such as their data.

    A seed is drawn with all its samples, in each group on its own: what is common to a seed's
    samples does not widen the interval of a comparison among them.

    Args:
        statistic: from one array a group, of shape (samples, *axes, seeds), to a number for each of
            the axes.
        groups: samples by seeds, a group for each task.
        seed: seed of the resamples.

    Returns:
        The estimate and its interval; no interval where a group has fewer than two seeds.
    """

    def drawn(*columns: np.ndarray, axis: int = -1) -> np.ndarray | float:
        del axis
        chosen = (group[:, which] for group, which in zip(groups, columns, strict=True))
        return statistic(*chosen)

    return bootstrap(drawn, [np.arange(group.shape[1]) for group in groups], seed=seed)


def iqm_interval(strata: Sequence[Float[np.ndarray, " _"]]) -> Interval:
    """Interquartile mean of all strata together, with its interval."""
    return bootstrap(pooled_iqm, strata)


def profile(strata: Sequence[Float[np.ndarray, " _"]], threshold: float) -> Interval:
    """Share of all runs that are at or below a threshold, with its interval.

    Source: performance profiles, Dolan and Moré 2002, as in 2108.13264.
    """

    def share(*drawn: np.ndarray, axis: int = -1) -> np.ndarray:
        del axis
        return np.asarray(np.mean(np.concatenate(drawn, axis=-1) <= threshold, axis=-1))

    return bootstrap(share, strata)
