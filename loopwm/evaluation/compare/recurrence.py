"""What one recurrence is worth: r loops of a block against stacks of different blocks."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from loopwm.evaluation.compare.fronts import reach
from loopwm.evaluation.compare.statistics import Interval, aligned, iqm, paired_bootstrap


@dataclasses.dataclass(frozen=True)
class Worth:
    """φ: r loops of one block reach what r^φ different blocks of the same width reach."""

    phi: Interval
    equivalent: dict[int, float]
    """Different blocks that reach the error of r loops, by r."""
    limited: tuple[int, ...]
    """Loop counts whose error lies outside what the stacks reach: their equivalent is a bound."""

    def content(self) -> dict[str, object]:
        """As plain data."""
        return {
            "phi": self.phi.content(),
            "equivalent_blocks": {str(r): b for r, b in self.equivalent.items()},
            "bounds": list(self.limited),
        }


def fit_worth(
    looped: Mapping[int, Mapping[int, float]],
    stacks: Mapping[int, Mapping[int, float]],
) -> Worth | None:
    r"""Least squares of $\log B(r) = \varphi \log r$ through the origin, r ≥ 2.

    B(r) is the number of different blocks whose interquartile mean error equals that of r loops,
    by interpolation in log(error) and log(blocks) along the running minimum of the stacks; where
    r loops do better than every stack it is the smallest of the best stacks, where they do worse
    than all the smallest of all.

    Args:
        looped: errors by number of loops and seed.
        stacks: errors by number of different blocks, of the same width, and seed.

    Returns:
        The fit with its interval, seeds resampled with all their errors; None without two stacks
        and a loop count above 1, or without a seed that all of them have.

    Source: the form r^φ is that of 2604.21106.
    """
    counts = sorted(r for r in looped if r >= 2)
    blocks = sorted(stacks)
    if not counts or len(blocks) < 2:
        return None
    errors = aligned([looped[r] for r in counts] + [stacks[b] for b in blocks])
    if not errors.size:
        return None
    log_blocks, log_counts = np.log(blocks), np.log(counts)

    def equivalents(middle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logs = np.log(np.maximum(middle, 1e-12))
        front = np.minimum.accumulate(logs[len(counts) :], axis=0)
        loops = logs[: len(counts)]
        found = [reach(log_blocks, front, np.maximum(row, front[-1])) for row in loops]
        worth, early = (np.stack(part) for part in zip(*found, strict=True))
        return worth, early | (loops < front[-1])

    def phi(drawn: np.ndarray) -> np.ndarray:
        middle = iqm(drawn)
        worth = equivalents(middle.reshape(len(middle), -1))[0]
        return (log_counts @ worth / (log_counts @ log_counts)).reshape(middle.shape[1:])

    worth, limits = equivalents(iqm(errors)[:, None])
    return Worth(
        phi=paired_bootstrap(phi, [errors]),
        equivalent={r: float(np.exp(b)) for r, b in zip(counts, worth[:, 0], strict=True)},
        limited=tuple(r for r, limit in zip(counts, limits[:, 0], strict=True) if limit),
    )
