"""Certificates: what is claimed about an update, at which level, in which norm."""

import dataclasses
import math

import numpy as np
from jaxtyping import Array, Float

from loopwm.errors import UsageError
from loopwm.stability.bounds import Level
from loopwm.stability.checks import VOIDED_BY
from loopwm.stability.declaration import LayerBound, Mode
from loopwm.stability.norms import Norm


@dataclasses.dataclass(frozen=True)
class Certificate:
    """What is proven of the inner update h → h⁺, for every input e held constant.

    It says nothing about the outer map z → z', which may expand.
    """

    level: Level
    """What is claimed."""
    rate: float
    """ρ: ‖F(x) − F(y)‖ ≤ ρ‖x − y‖ in `norm`. Below 1 it is a rate of contraction; in mode
    `bounded` it is the largest growth of a difference in one loop; at level `linear` it is the
    rate of the retention alone."""
    norm: Norm
    """The norm of the claim."""
    gamma: float | None
    """Lipschitz bound of the nonlinear part g, in `norm` (in the 2-norm where that is P); None
    at level `linear`."""
    condition: float
    """κ: the same claim holds in the 2-norm over T loops with κ·ρ^T; 1 for the 2-norm, infinite for
    the ∞-norm and that of the worst token, where κ grows with the size of the state."""
    layers: tuple[LayerBound, ...]
    """The bounds it rests on."""
    dtype: str
    """Type of the weights it was computed for."""
    mode: Mode = Mode.CONTRACTIVE
    """What the core is built to guarantee."""
    radius: float | None = None
    """Every entry of the state stays within ±radius, for every depth and input, once it is; None
    where no such box is proven."""
    voided_by: tuple[str, ...] = VOIDED_BY
    """What the claim does not survive."""

    @property
    def contracts(self) -> bool:
        """Whether the whole update is proven to contract."""
        return self.level is Level.GLOBAL and self.rate < 1.0

    def sufficient_depth(
        self, tolerance: float | Float[Array, ""], initial_error: float | Float[Array, ""]
    ) -> int:
        """Loops after which the distance to the fixed point is at most `tolerance`.

        Closed form: T = ⌈log(tolerance / initial_error) / log ρ⌉, at least 0.

        Args:
            tolerance: wanted distance to the fixed point in `norm`, positive.
            initial_error: distance of the first state to the fixed point in `norm`, or a bound.

        Returns:
            The number of loops.

        Raises:
            UsageError: the certificate proves no contraction, the tolerance is not positive, or
                the initial error is no distance.
        """
        self._check_contracts()
        tolerance, initial_error = float(tolerance), float(initial_error)
        if not tolerance > 0:
            raise UsageError(f"tolerance is {tolerance}; give a positive distance.")
        if not 0 <= initial_error < float("inf"):
            raise UsageError(f"initial_error is {initial_error}; give a finite distance.")
        if initial_error <= tolerance:
            return 0
        if self.rate == 0.0:
            return 1
        share = tolerance / initial_error
        # A quotient may vanish where both logarithms exist.
        fall = math.log(share) if share > 0 else math.log(tolerance) - math.log(initial_error)
        return int(np.ceil(fall / math.log(self.rate)))

    def error_bound(
        self, residual: float | Float[Array, ""], rounding: float | Float[Array, ""] = 0.0
    ) -> float:
        r"""A-posteriori bound of the distance to the fixed point, in `norm`.

        $$\|h_t - h^*\| \le \frac{\rho \|h_t - h_{t-1}\| + \eta}{1-\rho}.$$

        Args:
            residual: ‖h_t − h_{t−1}‖ in `norm`.
            rounding: η, a bound of the rounding error of the last loop in `norm`.

        Returns:
            The bound.

        Raises:
            UsageError: the certificate proves no contraction, or an argument is no distance.
        """
        self._check_contracts()
        error = _distance("rounding", rounding)
        return (self.rate * _distance("residual", residual) + error) / (1.0 - self.rate)

    def state_bound(
        self,
        first_residual: float | Float[Array, ""],
        start: float | Float[Array, ""] = 0.0,
        rounding: float | Float[Array, ""] = 0.0,
    ) -> float:
        r"""Bound of the state after any number of loops, in `norm`.

        $$\|h_t\| \le \|h_0\| + \frac{\|h_1 - h_0\| + 2\eta}{1-\rho}.$$

        Without rounding the steps fall by ρ each, and their sum is a geometric series. Rounding
        moves the first step by η, and every later state by η/(1 − ρ) in all.

        Args:
            first_residual: ‖h_1 − h_0‖ in `norm`.
            start: ‖h_0‖ in `norm`.
            rounding: η, a bound of the rounding error of each loop in `norm`.

        Returns:
            The bound.

        Raises:
            UsageError: the certificate proves no contraction, or an argument is no distance.
        """
        self._check_contracts()
        given = {"first_residual": first_residual, "start": start, "rounding": rounding}
        first, begun, error = (_distance(name, value) for name, value in given.items())
        return begun + (first + 2.0 * error) / (1.0 - self.rate)

    def growth(self, depth: int) -> float:
        """ρ^T: after T loops two states are at most this factor times as far apart, in `norm`.

        Raises:
            UsageError: the certificate covers the retention alone, or the depth is negative.
        """
        if self.level is Level.LINEAR:
            raise UsageError(
                "This certificate covers the retention alone, so nothing bounds the growth of the "
                "whole update; use a contractive or bounded core."
            )
        if depth < 0:
            raise UsageError(f"depth is {depth}; give a number of loops.")
        return self.rate**depth

    def statement(self) -> str:
        """The claim in one sentence."""
        if self.level is Level.LINEAR:
            return (
                f"The retention term alone contracts at rate {self.rate:.4f} (level 'linear'), "
                "which says nothing about the whole update."
            )
        if self.mode is Mode.BOUNDED:
            return (
                f"Every entry of the state stays within ±{self.radius:.4g} for every depth and "
                f"every input (level 'ball'), and one loop moves two states apart by a factor of "
                f"{self.rate:.4g} at most, in the {self.norm}-norm."
            )
        return (
            f"One loop multiplies the distance of any two states by {self.rate:.4f} at most, in "
            f"the {self.norm}-norm, for every state and every input (level '{self.level}')."
        )

    def summary(self) -> dict[str, str | float]:
        """The three fields that a run's summary.json keeps: level, rate, norm."""
        return {"level": str(self.level), "rate": self.rate, "norm": str(self.norm)}

    def _check_contracts(self) -> None:
        if not self.contracts:
            raise UsageError(
                f"A certificate of level '{self.level}' with rate {self.rate:.4g} proves no "
                "contraction of the whole update, so there is no fixed point to come close to; use "
                "a core of mode 'contractive'."
            )


@dataclasses.dataclass(frozen=True)
class TransitionCertificate:
    """What is proven of the imagined transition z, u → z': the ball it stays in.

    It holds for every horizon and every action sequence. Nearby states may move apart.
    """

    radius: float
    """R: ‖z‖ ≤ R in `norm` for every imagined state, rounding included."""
    norm: Norm
    """The norm of the ball."""
    dtype: str
    """Type of the weights it was computed for."""
    level: Level = Level.BALL
    """Always `ball`."""

    def statement(self) -> str:
        """The claim in one sentence."""
        return (
            f"Imagined states stay in a ball of radius {self.radius:.4g} in the {self.norm}-norm "
            "for every horizon and every action sequence (level 'ball'); nearby states may move "
            "apart."
        )


def _distance(name: str, value: float | Float[Array, ""]) -> float:
    """The number in double precision; a float32 one would round what is computed with it."""
    value = float(value)
    if not 0 <= value < float("inf"):
        raise UsageError(f"{name} is {value}; give a finite distance.")
    return value
