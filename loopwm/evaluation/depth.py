"""What depth buys: error against the number of loops, and loops used against the true depth."""

import dataclasses

import numpy as np
from jaxtyping import Float, Real

from loopwm.errors import UsageError


@dataclasses.dataclass(frozen=True)
class DepthCurve:
    """Errors of many samples at every depth 0..T; an observation, level `empirical`."""

    errors: Float[np.ndarray, "samples depths"]
    """Error of each sample after t loops, t = 0..T, shape (samples, T + 1)."""

    def __post_init__(self):
        """Refuses curves from which nothing can be read."""
        if self.errors.ndim != 2 or self.errors.shape[0] < 1 or self.errors.shape[1] < 2:
            raise UsageError(
                f"The errors have shape {self.errors.shape}; give (samples, depths) with the error "
                "before the first loop and after each."
            )
        if not np.all(np.isfinite(self.errors)) or np.any(self.errors < 0):
            raise UsageError(
                "The errors have negative, NaN or infinite entries; give distances, and check the "
                "model where they are not finite."
            )

    @property
    def mean(self) -> Float[np.ndarray, " depths"]:
        """Mean error after t loops, shape (T + 1,)."""
        return self.errors.mean(axis=0)

    @property
    def effective_loops(self) -> Float[np.ndarray, " samples"]:
        """Share of each sample's loops that reduced its error, shape (samples,), in [0, 1]."""
        return np.mean(self.errors[:, 1:] < self.errors[:, :-1], axis=1)

    @property
    def best_depth(self) -> int:
        """The smallest depth with the smallest mean error."""
        return int(np.argmin(self.mean))

    def overthinking(self, trained: int) -> float:
        """Largest mean error beyond the trained depth over the mean error there, less 1.

        Args:
            trained: depth of training, in 1..T − 1.

        Returns:
            0 or less where more loops never hurt; infinite where an error of 0 became one.

        Raises:
            UsageError: no depth beyond it was measured.
        """
        if not 0 <= trained < len(self.mean) - 1:
            raise UsageError(
                f"The trained depth is {trained} and the curve ends at {len(self.mean) - 1}; give "
                "errors beyond the trained depth."
            )
        here, beyond = float(self.mean[trained]), float(self.mean[trained + 1 :].max())
        if here == 0.0:
            return 0.0 if beyond == 0.0 else float("inf")
        return beyond / here - 1.0


@dataclasses.dataclass(frozen=True)
class Saturation:
    r"""A fit of $a + b\,e^{-cT}$ to mean errors; an observation, level `empirical`."""

    floor: float
    """a ≥ 0: the error that more loops do not take away."""
    gain: float
    """b: what loops take away in all."""
    rate: float
    """c ≥ 0, a loop."""
    residual: float
    """Root mean square of error − fit, over the range of the errors; 0 for a perfect fit."""

    def __call__(self, depth: Real[np.ndarray, " depths"]) -> Float[np.ndarray, " depths"]:
        """The fitted error at that depth."""
        return self.floor + self.gain * np.exp(-self.rate * np.asarray(depth, float))


def fit_saturation(
    depths: Real[np.ndarray, " depths"],
    errors: Float[np.ndarray, " depths"],
) -> Saturation:
    r"""Least squares of $a + b\,e^{-cT}$ with a ≥ 0 and c ≥ 0.

    Args:
        depths: T, at least three different ones, shape (depths,).
        errors: mean errors there, shape (depths,).

    Returns:
        The fit.

    Raises:
        UsageError: there are too few depths, or an error is not finite.
    """
    # Imported here, as below: a run needs it once, at its end.
    from scipy.optimize import least_squares

    depths, errors = np.asarray(depths, float), np.asarray(errors, float)
    if depths.shape != errors.shape or len(np.unique(depths)) < 3:
        raise UsageError(
            f"A saturation curve has three numbers and was given {len(np.unique(depths))} depths "
            f"and {errors.size} errors; give the errors of three or more depths."
        )
    if not np.all(np.isfinite(errors)):
        raise UsageError("An error is NaN or infinite; check the model at that depth.")
    spread = float(np.ptp(errors)) or 1.0
    # Several starts: the sum of squares has more than one minimum in c.
    fits = [
        least_squares(
            lambda p: (p[0] + p[1] * np.exp(-p[2] * depths) - errors) / spread,
            x0=(max(float(errors.min()), 0.0), float(errors[0] - errors[-1]), rate),
            bounds=((0.0, -np.inf, 0.0), (np.inf, np.inf, np.inf)),
        )
        for rate in (0.03, 0.3, 3.0)
    ]
    best = min(fits, key=lambda fit: fit.cost)
    floor, gain, rate = map(float, best.x)
    return Saturation(floor, gain, rate, float(np.sqrt(np.mean(best.fun**2))))


def spearman(a: Real[np.ndarray, " samples"], b: Real[np.ndarray, " samples"]) -> float:
    """Spearman's rank correlation, ties given their mean rank; NaN where either is constant."""
    from scipy.stats import rankdata

    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])
