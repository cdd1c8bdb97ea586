r"""Proven bounds and estimates as different types, and the rules that compose bounds.

An `UpperBound` is proven; an `Estimate` was found by a search and lies below the truth. Rules take
bounds alone: an estimate inside a certificate is an error, not a worse certificate.

With $L(f)$ the Lipschitz constant of $f$ in one norm: $L(f \circ g) \le L(f)L(g)$,
$L(f + g) \le L(f) + L(g)$, $L(cf) = |c|\,L(f)$.
"""

import enum
import math

import equinox as eqx
import jax
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from loopwm.choices import member
from loopwm.errors import UsageError
from loopwm.stability.norms import Norm

# One step of float64 rounding for each operation of a rule is far below this.
_MARGIN = 1.0 + 1e-14


class Level(enum.StrEnum):
    """How much a statement claims."""

    GLOBAL = "global"
    """Proven for every latent state and every input."""
    BALL = "ball"
    """Proven inside an invariant set."""
    LINEAR = "linear"
    """Proven for the linear retention term alone."""
    EMPIRICAL = "empirical"
    """Observed; a lower bound of the true rate, never a guarantee."""


def _norm(given: Norm) -> Norm:
    return member(Norm, given, "norm")


def _level(given: Level) -> Level:
    return member(Level, given, "level")


class UpperBound(eqx.Module):
    """A proven upper bound of an operator norm or a Lipschitz constant."""

    value: float | Float[Array, ""]
    """The bound; a traced scalar inside training, a float with a margin for rounding elsewhere."""
    norm: Norm = eqx.field(static=True, default=Norm.TWO, converter=_norm)
    """The norm on both sides."""
    level: Level = eqx.field(static=True, default=Level.GLOBAL, converter=_level)
    """Where it holds: `global`, `ball` or `linear`."""

    def __check_init__(self):
        """Refuses to call an observation a bound, and numbers that no constant can have."""
        if self.level is Level.EMPIRICAL:
            raise UsageError("An observed value is no upper bound; use an Estimate for it.")
        if isinstance(self.value, Tracer):
            return  # has no number yet
        number = float(self.value)
        # A NaN that JAX computed is passed on like any other, for its caller to report.
        if number < 0.0 or (np.isnan(number) and not isinstance(self.value, jax.Array)):
            raise UsageError(
                f"An upper bound of {number} bounds nothing; give a number that is at least 0, or "
                "infinity where none is known."
            )

    def __float__(self) -> float:
        """The bound as a number."""
        return float(self.value)


class Estimate(eqx.Module):
    """The largest value that a search found; the truth is not below it."""

    value: float | Float[Array, ""]
    """The value found, a lower bound of the truth."""
    norm: Norm = eqx.field(static=True, default=Norm.TWO, converter=_norm)
    """The norm on both sides."""
    level: Level = eqx.field(static=True, default=Level.EMPIRICAL, converter=_level)
    """Always `empirical`."""

    def __check_init__(self):
        """Refuses any other level."""
        if self.level is not Level.EMPIRICAL:
            raise UsageError(f"An estimate cannot have the level {self.level}; give 'empirical'.")

    def __float__(self) -> float:
        """The estimate as a number."""
        return float(self.value)


def chain(*bounds: UpperBound) -> UpperBound:
    """Bound of a composition: the product.

    Args:
        bounds: bounds of the maps that are applied one after the other, in one norm.

    Returns:
        Their product, at the weakest level among them; 1 when there are none.

    Raises:
        UsageError: one is an estimate, or the norms differ.
    """
    norm, level = _common(bounds)
    return UpperBound(_MARGIN * math.prod(float(b) for b in bounds), norm, level)


def total(*bounds: UpperBound) -> UpperBound:
    """Bound of a sum of maps: the sum. See `chain` for arguments and errors."""
    norm, level = _common(bounds)
    return UpperBound(_MARGIN * math.fsum(float(b) for b in bounds), norm, level)


def residual(branch: UpperBound) -> UpperBound:
    """Bound of x + f(x): 1 + L. See `chain` for errors."""
    return total(UpperBound(1.0, branch.norm), branch)


def scaled(bound: UpperBound, factor: float) -> UpperBound:
    """Bound of c·f: |c|·L. See `chain` for errors."""
    norm, level = _common((bound,))
    return UpperBound(_MARGIN * abs(float(factor)) * float(bound), norm, level)


def converted(bound: UpperBound, norm: Norm, condition: float) -> UpperBound:
    """The bound in another norm: κ·L, with κ the product of both equivalence constants.

    Args:
        bound: the bound.
        norm: the other norm.
        condition: κ ≥ sup ‖x‖_new/‖x‖_old · sup ‖x‖_old/‖x‖_new, at least 1.

    Returns:
        The bound in the other norm.

    Raises:
        UsageError: it is an estimate, or κ is below 1.
    """
    _, level = _common((bound,))
    condition = float(condition)  # NumPy's float32 would round all of the product
    if not condition >= 1.0:
        raise UsageError(f"condition is {condition}; give a number that is at least 1.")
    return UpperBound(_MARGIN * condition * float(bound), norm, level)


_WEAKNESS = (Level.GLOBAL, Level.BALL, Level.LINEAR)


def _common(given: tuple[object, ...]) -> tuple[Norm, Level]:
    """The one norm of the bounds, and the weakest of their levels."""
    norms, levels = set(), [Level.GLOBAL]
    for bound in given:
        if not isinstance(bound, UpperBound):
            raise UsageError(
                f"{type(bound).__name__} is not a proven bound, so nothing can be concluded "
                "from it; pass an UpperBound."
            )
        norms.add(bound.norm)
        levels.append(bound.level)
    if len(norms) > 1:
        raise UsageError(
            f"The bounds are stated in different norms ({', '.join(sorted(norms))}); use "
            "converted to bring them to one norm."
        )
    return norms.pop() if norms else Norm.TWO, max(levels, key=_WEAKNESS.index)
