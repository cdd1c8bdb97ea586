r"""Run-time verification of a found state, by Banach's theorem on a ball around it.

Where no global bound of a map F holds, one state h can still be certified by itself. Let L be an
upper bound of the Lipschitz constant of F on the closed ball of radius r around h, L < 1. If

$$\|F(h) - h\| \le (1 - L)\, r,$$

then F maps the ball into itself, so it has exactly one fixed point h* in it, the iteration from any
state of the ball stays there and converges to it at rate L, and
$\|h - h^*\| \le \|F(h) - h\| / (1 - L)$. Level `ball`, for this state alone.

L and the residual come from interval arithmetic (`loopwm.stability.interval`), so both are proven
for F in exact real arithmetic.
"""

import dataclasses
import enum
import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from loopwm.choices import member
from loopwm.errors import UsageError
from loopwm.stability.bounds import Level, UpperBound
from loopwm.stability.checks import check_update
from loopwm.stability.interval import arithmetic as ia
from loopwm.stability.interval.arithmetic import Interval
from loopwm.stability.interval.enclosure import bound_of, check_weights
from loopwm.stability.interval.program import run, trace, values
from loopwm.stability.interval.region import Region, upper_norm
from loopwm.stability.norms import Norm

_UP = 1.0 + 1e-12
_GRID = 1.25
_MOST_RADII = 100


class Reason(enum.Enum):
    """Why a state is verified or not; each value is a sentence."""

    VERIFIED = (
        "The update maps the ball into itself and contracts there, so it has exactly one fixed "
        "point in the ball."
    )
    NO_CONTRACTION = (
        "The bound of the update's constant on the ball is not below 1, so no contraction is "
        "proven; use a smaller radius, or another norm."
    )
    RESIDUAL_TOO_LARGE = (
        "The residual is too large against the radius, so the ball is not proven to be mapped into "
        "itself; use more loops, or a larger radius."
    )
    UNBOUNDED = (
        "The update may jump, be undefined or be arbitrarily steep on the ball, so it has no "
        "bound there; use a smaller radius."
    )


@dataclasses.dataclass(frozen=True)
class Verification:
    """What is proven of an update on a ball around one state, and only there."""

    verified: bool
    """Whether the update is proven to contract on the ball and to map it into itself."""
    radius: float
    """r: radius of the ball around the state in `norm`; the last one tried if none was verified."""
    rate: UpperBound
    """L: bound of the update's Lipschitz constant on the ball, in `norm`; ∞ where there is none."""
    residual: float
    """Upper bound of ‖F(h) − h‖ in `norm`, for exact real arithmetic; ∞ where F is undefined."""
    error_bound: float
    """(residual + rounding) / (1 − L): upper bound of ‖h − h*‖ in `norm`; ∞ if not verified."""
    norm: Norm
    """The norm of the claim."""
    reason: Reason
    """Why it is verified or not."""
    level: Level = Level.BALL
    """Always `ball`."""

    def statement(self) -> str:
        """The outcome in one sentence."""
        if not self.verified:
            return self.reason.value
        return (
            f"On the ball of radius {self.radius:.4g} around this state, in the {self.norm}-norm, "
            f"the update contracts at rate {float(self.rate):.4f} and has exactly one fixed point "
            f"there, at a distance of {self.error_bound:.4g} at most (level '{self.level}')."
        )


def verify(
    update: Callable[[Float[Array, "*state"]], Float[Array, "*state"]],
    state: Array | np.ndarray,
    *,
    radius: float | None = None,
    norm: Norm = Norm.TWO,
    weights: Array | np.ndarray | None = None,
    rounding: float = 0.0,
) -> Verification:
    r"""Tries to prove that an update has exactly one fixed point near a found state.

    Proven are L < 1 and $\|F(h)-h\| + \eta \le (1-L)\, r$ on the ball of radius r around h. Give a
    radius to learn how far the contraction reaches; without one the smallest is searched that
    verifies; it has the best rate.

    Args:
        update: the map F, from a state to the next one; a JAX function or an Equinox module.
        state: the found state h, shape (*state), float32 or float64.
        radius: r in `norm`, positive, or None to search.
        norm: the norm of the claim.
        weights: p of the P-norm, positive, shape (*state); for that norm alone.
        rounding: η, a bound of how far one evaluation of F in its own arithmetic is from the exact
            one on the ball, in `norm`. With it the claim that the ball is mapped into itself holds
            for that arithmetic too.

    Returns:
        What is proven. That nothing could be proven is no error: `verified` is False then, and
        `reason` says why.

    Raises:
        UsageError: the update is no map from arrays of one shape to themselves, has weights or
            primitives that nothing can be proven of, or an argument is not as described.

    Source: Banach's fixed point theorem. Interval arithmetic for its conditions is a verification
        method in the sense of Rump 2010, "Verification methods: rigorous results using
        floating-point arithmetic" (Acta Numerica 19).
    """
    dtype, norm = np.dtype(jnp.asarray(state).dtype), member(Norm, norm, "norm")
    # In float32 the sums below would be rounded as if in float64.
    radius, rounding = None if radius is None else float(radius), float(rounding)
    state = _checked(update, state, radius, norm, weights, rounding)
    program = trace(update, state.shape, dtype)
    center = Interval.exact(state)
    moved = values(run(program, Region.from_box(center), slopes=False))
    residual = upper_norm(ia.add(moved, ia.negative(center)), norm, weights)

    def bound(r: float) -> UpperBound:
        ball = Region.ball(state, r, norm, weights)
        return bound_of(run(program, ball, slopes=True), state.shape, norm, weights)

    def outcome(r: float, rate: UpperBound, reason: Reason) -> Verification:
        verified = reason is Reason.VERIFIED
        error = (residual + rounding) / (1.0 - float(rate)) * _UP if verified else math.inf
        return Verification(verified, r, rate, residual, error, norm, reason)

    if not math.isfinite(residual):
        return outcome(radius or 0.0, UpperBound(math.inf, norm, Level.BALL), Reason.UNBOUNDED)
    if radius is not None:
        rate = bound(radius)
        return outcome(radius, rate, _judged(residual + rounding, rate, radius))
    return outcome(*_search(bound, residual + rounding, _smallest(state, norm, weights)))


def _search(
    bound: Callable[[float], UpperBound], residual: float, smallest: float
) -> tuple[float, UpperBound, Reason]:
    """The smallest radius that verifies, within a factor of the grid, or the last one tried.

    A radius below residual / (1 − L(r)) cannot verify, and L only grows with the radius, so the
    grid starts at the residual and skips what is below that.
    """
    radius = max(residual * _UP, smallest)
    rate, reason = bound(radius), Reason.UNBOUNDED
    for _ in range(_MOST_RADII):
        reason = _judged(residual, rate, radius)
        if reason is not Reason.RESIDUAL_TOO_LARGE:
            break
        radius = max(_GRID * radius, residual / (1.0 - float(rate)) * _UP)
        rate = bound(radius)
    beyond = reason in (Reason.NO_CONTRACTION, Reason.UNBOUNDED)
    if beyond and radius > smallest and float(bound(smallest)) < 1.0:
        # It contracts near the state, but the residual reaches further than that.
        reason = Reason.RESIDUAL_TOO_LARGE
    return radius, rate, reason


def _judged(residual: float, rate: UpperBound, radius: float) -> Reason:
    """Whether residual ≤ (1 − L) r with L < 1, both sides rounded to the safe side."""
    constant = float(rate)
    if not math.isfinite(constant):
        return Reason.UNBOUNDED
    if not constant < 1.0:
        return Reason.NO_CONTRACTION
    # 1 − L is exact from L = 1/2 on and else rounded by one unit; each product by another.
    if residual * _UP <= (1.0 - constant) * radius * (1.0 - 1e-15):
        return Reason.VERIFIED
    return Reason.RESIDUAL_TOO_LARGE


def _smallest(
    state: np.ndarray,
    norm: Norm,
    weights: Array | np.ndarray | None,
) -> float:
    """A radius that float64 can tell from 0 beside the state."""
    size = upper_norm(Interval.exact(state), norm, weights)
    unit = 1.0 if weights is None else float(np.sqrt(np.max(np.asarray(weights, np.float64))))
    return 2.0**-40 * max(size, unit)


def _checked(
    update: Callable,
    state: Array | np.ndarray,
    radius: float | None,
    norm: Norm,
    weights: Array | np.ndarray | None,
    rounding: float,
) -> np.ndarray:
    """The state in float64, after all checks of the arguments."""
    check_update(update, jnp.asarray(state))
    array = np.asarray(state, np.float64)
    if not np.all(np.isfinite(array)):
        raise UsageError("The state is NaN or infinite somewhere; pass a finite state.")
    check_weights(norm, weights, array.shape)
    if radius is not None and not 0 < radius < math.inf:
        raise UsageError(f"radius is {radius}; give a positive finite number, or None to search.")
    if not 0 <= rounding < math.inf:
        raise UsageError(f"rounding is {rounding}; give a finite distance, 0 or more.")
    return array
