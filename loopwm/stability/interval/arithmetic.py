r"""Interval arithmetic on float64 arrays, rounded outwards.

How far results are widened, and why that is enough:

- sums and differences of two numbers: the rounding error is found exactly (Knuth's two-sum) and
  the bound moved to the next float64 only where the error points outwards;
- products and quotients are correctly rounded by IEEE 754, so the next float64 is beyond the true
  value; a product with 0 is exactly 0, and one that Dekker's two-product proves to be
  exact is left as it is;
- sums and matrix products of n terms carry an error of at most n u Σ|terms| with u = 2⁻⁵³ in any
  order of summation; (n + 4) 2⁻⁵² Σ|terms| is added;
- elementary functions (exp, tanh, erf, …) are within a few units in the last place in NumPy and in
  the C library; a relative 2⁻⁴⁰ and an absolute 2⁻¹⁰⁶⁰ are added, thousands of times as much.

No bound is ever NaN: what cannot be bounded is (−∞, ∞), and 0 · ∞ is 0, because ∞ only says that
no finite bound of a real number is known.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import ArrayLike, Shaped

from loopwm.errors import UsageError

Numbers = Any
"""An array of float64, or the scalar that NumPy makes of one without axes."""

_UNIT = 2.0**-52
_RELATIVE = 2.0**-40
_ABSOLUTE = 2.0**-1060


@dataclasses.dataclass(frozen=True, eq=False, init=False)
class Interval:
    """All arrays x with low ≤ x ≤ high in every entry.

    Raises:
        UsageError: the shapes differ, a bound is NaN, or a low one is above the high one.
    """

    low: Shaped[np.ndarray, "*shape"]
    """Lower bounds, shape (*shape), float64 (or bool, where False to True means undecided)."""
    high: Shaped[np.ndarray, "*shape"]
    """Upper bounds, shape (*shape)."""

    def __init__(self, low: ArrayLike, high: ArrayLike):
        """Casts floating bounds to float64 and refuses bounds that bound nothing."""
        object.__setattr__(self, "low", _cast(low))
        object.__setattr__(self, "high", self.low if high is low else _cast(high))
        if self.low.shape != self.high.shape:
            raise UsageError(
                f"The bounds have shapes {self.low.shape} and {self.high.shape}; pass two of one "
                "shape."
            )
        if not np.all(self.low <= self.high):  # NaN fails too
            raise UsageError(
                "A lower bound is NaN or above its upper bound; pass bounds with low <= high."
            )

    @classmethod
    def exact(cls, value: ArrayLike) -> "Interval":
        """The interval of one array, shape (*shape)."""
        array = np.asarray(value)
        return cls(array, array)

    @classmethod
    def ball(cls, center: ArrayLike, radius: ArrayLike) -> "Interval":
        """The box center ± radius, rounded outwards; the radius is one number or one per entry."""
        middle = _cast(np.asarray(center))
        width = np.broadcast_to(_cast(np.asarray(radius)), middle.shape)
        return cls(add_down(middle, -width), add_up(middle, width))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the arrays."""
        return self.low.shape

    @property
    def thin(self) -> bool:
        """Whether both bounds are one array; False does not say that they differ."""
        return self.low is self.high

    @property
    def middle(self) -> np.ndarray:
        """A point inside, shape (*shape); only for bounded intervals."""
        return self.low if self.thin else np.asarray(0.5 * self.low + 0.5 * self.high)

    @property
    def radius(self) -> np.ndarray:
        """Half-widths rounded up, so that middle ± radius covers the interval, shape (*shape)."""
        if self.thin:
            return np.zeros(self.shape)
        middle = self.middle
        return np.asarray(np.maximum(add_up(self.high, -middle), add_up(middle, -self.low)))

    @property
    def magnitude(self) -> np.ndarray:
        """Largest absolute value of each entry, shape (*shape)."""
        return np.asarray(np.maximum(np.abs(self.low), np.abs(self.high)))

    @property
    def bounded(self) -> np.ndarray:
        """Whether both bounds are finite, for each entry, shape (*shape)."""
        return np.asarray(np.isfinite(self.low) & np.isfinite(self.high))

    def contains(self, value: ArrayLike) -> bool:
        """Whether an array of shape (*shape) lies inside in every entry."""
        value = np.asarray(value)
        return bool(np.all((self.low <= value) & (value <= self.high)))


def everything(shape: tuple[int, ...]) -> Interval:
    """(−∞, ∞) in every entry."""
    return Interval(np.full(shape, -np.inf), np.full(shape, np.inf))


def where(mask: Numbers, inside: Interval, outside: Interval) -> Interval:
    """`inside` where the mask holds, else `outside`."""
    return Interval(
        np.where(mask, inside.low, outside.low), np.where(mask, inside.high, outside.high)
    )


def has_zero(x: Interval) -> np.ndarray:
    """Whether 0 lies inside, for each entry."""
    return np.asarray((x.low <= 0) & (x.high >= 0))


def add(a: Interval, b: Interval) -> Interval:
    """Encloses a + b."""
    return Interval(add_down(a.low, b.low), add_up(a.high, b.high))


def negative(a: Interval) -> Interval:
    """Encloses −a."""
    if a.thin:
        return Interval.exact(-a.low)
    return Interval(-a.high, -a.low)


def multiply(a: Interval, b: Interval) -> Interval:
    """Encloses a · b."""
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        products = [x * y for x in _ends(a) for y in _ends(b)]
    zero = ((a.low == 0) & (a.high == 0)) | ((b.low == 0) & (b.high == 0))
    exact = zero
    if len(products) == 1:
        exact = zero | _is_exact_product(a.low, b.low, products[0])
    return _from_corners(products, a, b, exact)


def divide(a: Interval, b: Interval) -> Interval:
    """Encloses a / b; (−∞, ∞) where b contains 0."""
    undefined = has_zero(b)
    if undefined.any():
        b = where(undefined, Interval.exact(np.ones(())), b)
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        quotients = [x / y for x in _ends(a) for y in _ends(b)]
    bounded = _from_corners(quotients, a, b, (a.low == 0) & (a.high == 0))
    return where(undefined, everything(bounded.shape), bounded) if undefined.any() else bounded


def square(a: Interval) -> Interval:
    """Encloses a², 0 at least."""
    a = absolute(a)
    with np.errstate(over="ignore", under="ignore"):
        corners = [end * end for end in (a.low, a.high)]
    return _from_corners(corners, a, a, a.high == 0)


def absolute(a: Interval) -> Interval:
    """Encloses |a|, exactly."""
    return Interval(np.asarray(np.maximum(0.0, np.maximum(a.low, -a.high))), a.magnitude)


def power(a: Interval, exponent: int) -> Interval:
    """Encloses aⁿ for an integer n; (−∞, ∞) where n is negative and a contains 0."""
    if exponent < 0:
        return divide(Interval.exact(np.ones(a.shape)), power(a, -exponent))
    if exponent == 0:
        return Interval.exact(np.ones(a.shape))
    if exponent % 2:
        return increasing(lambda x: x**exponent, a)
    return clipped(increasing(lambda x: x**exponent, absolute(a)), 0.0, np.inf)


def sums(a: Interval, axes: tuple[int, ...]) -> Interval:
    """Encloses the sum over the axes."""
    terms = math.prod(a.shape[axis] for axis in axes)
    return _summed(a, terms, lambda x: np.sum(x, axis=axes))


def running_sums(a: Interval, axis: int) -> Interval:
    """Encloses the cumulative sum along an axis."""
    return _summed(a, a.shape[axis], lambda x: np.cumsum(x, axis=axis))


def product(a: Interval, b: Interval) -> Interval:
    r"""Encloses the matrix product over the last axis of a and the last but one of b.

    With midpoints m and radii r, |ab − m_a m_b| ≤ |m_a| r_b + r_a (|m_b| + r_b) (Rump 1999, "Fast
    and parallel interval arithmetic"). A sum with an unbounded term is unbounded.
    """
    wild = ~(np.all(a.bounded) and np.all(b.bounded))
    bad = None
    if wild:
        open_a, open_b = (~a.bounded).astype(float), (~b.bounded).astype(float)
        bad = (open_a @ np.ones(b.shape) + np.ones(a.shape) @ open_b) > 0
        zero = Interval.exact(np.zeros(()))
        a, b = where(a.bounded, a, zero), where(b.bounded, b, zero)
    middle_a, middle_b, size_a, size_b = a.middle, b.middle, abs(a.middle), abs(b.middle)
    terms = a.shape[-1]
    gamma = (terms + 4) * _UNIT
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        middle = middle_a @ middle_b
        radius = gamma * (size_a @ size_b)
        if not b.thin:
            radius = radius + size_a @ b.radius
        if not a.thin:
            radius = radius + a.radius @ (size_b + b.radius)
        radius = radius * (1.0 + 4 * gamma) + (terms + 1) * _ABSOLUTE
        low, high = _down(middle - radius), _up(middle + radius)
    if bad is not None:
        low, high = np.where(bad, -np.inf, low), np.where(bad, np.inf, high)
    return Interval(low, high)


def increasing(function: Callable[[Numbers], Numbers], a: Interval) -> Interval:
    """Encloses the range of an increasing elementary function, exactly where it maps 0 to 0."""
    low, high = _near(function, a.low)[0], _near(function, a.high)[1]
    return Interval(low, high)


def decreasing(function: Callable[[Numbers], Numbers], a: Interval) -> Interval:
    """Encloses the range of a decreasing elementary function."""
    return Interval(_near(function, a.high)[0], _near(function, a.low)[1])


def peaked(function: Callable[[Numbers], Numbers], a: Interval) -> Interval:
    """Encloses the range of an even elementary function that decreases with |a|."""
    return decreasing(function, absolute(a))


def wave(function: Callable[[Numbers], Numbers], a: Interval, peak: float) -> Interval:
    """Encloses the range of sin or cos, whose maxima lie at peak + 2πk."""
    ends = [_near(function, a.low), _near(function, a.high)]
    low = np.minimum(ends[0][0], ends[1][0])
    high = np.maximum(ends[0][1], ends[1][1])
    # Beyond 2²⁰ the position within a period is no longer trusted to the tolerance below.
    far = ~(a.magnitude < 2.0**20)
    high = np.where(far | _holds_multiple(a, peak), 1.0, np.minimum(high, 1.0))
    low = np.where(far | _holds_multiple(a, peak + math.pi), -1.0, np.maximum(low, -1.0))
    return Interval(low, high)


def clipped(a: Interval, low: float, high: float) -> Interval:
    """The part of a that lies in [low, high], for a function whose range that is."""
    return Interval(np.clip(a.low, low, high), np.clip(a.high, low, high))


def add_down(x: Numbers, y: Numbers) -> Numbers:
    """x + y, rounded down; −∞ where it is NaN."""
    total, error = _two_sum(x, y)
    return np.where(error >= 0, total, _down(total))


def add_up(x: Numbers, y: Numbers) -> Numbers:
    """x + y, rounded up; ∞ where it is NaN."""
    total, error = _two_sum(x, y)
    return np.where(error <= 0, total, _up(total))


def _two_sum(x: Numbers, y: Numbers) -> tuple[Numbers, Numbers]:
    """The rounded sum and its exact rounding error, which is NaN where something is infinite."""
    with np.errstate(invalid="ignore", over="ignore"):
        total = x + y
        part = total - x
        return total, (x - (total - part)) + (y - part)


def _is_exact_product(x: Numbers, y: Numbers, product: Numbers) -> Numbers:
    """Where x · y is proven to be without rounding error, by Dekker's two-product."""
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        parts = []
        for factor in (x, y):
            high = factor * 134217729.0  # 2²⁷ + 1
            high = high - (high - factor)
            parts.append((high, factor - high))
        (a, b), (c, d) = parts
        error = ((a * c - product) + a * d + b * c) + b * d
    # Within this range nothing overflows or underflows on the way.
    safe = (np.abs(product) > 1e-200) & (np.abs(x) < 1e100) & (np.abs(y) < 1e100)
    return safe & (error == 0)


def _from_corners(corners: list, a: Interval, b: Interval, exact: Numbers) -> Interval:
    """The hull of the values at the corners, rounded outwards, with the sign that is certain."""
    corners = [np.where(np.isnan(c), 0.0, c) for c in corners]
    low, high = corners[0], corners[0]
    for corner in corners[1:]:
        low, high = np.minimum(low, corner), np.maximum(high, corner)
    low, high = np.where(exact, low, _down(low)), np.where(exact, high, _up(high))
    same = ((a.low >= 0) & (b.low >= 0)) | ((a.high <= 0) & (b.high <= 0))
    opposite = ((a.low >= 0) & (b.high <= 0)) | ((a.high <= 0) & (b.low >= 0))
    low = np.where(same, np.maximum(low, 0.0), low)
    high = np.where(opposite, np.minimum(high, 0.0), high)
    return Interval(low, high)


def _summed(a: Interval, terms: int, add_all: Callable[[Numbers], Numbers]) -> Interval:
    """Encloses a linear sum of `terms` entries."""
    if terms <= 1:
        return Interval(add_all(a.low), add_all(a.high))
    bounds = []
    for end, outward in ((a.low, -1.0), (a.high, 1.0)):
        with np.errstate(invalid="ignore", over="ignore"):
            total = add_all(end)
            margin = 1.01 * (terms + 4) * _UNIT * add_all(np.abs(end))
            moved = np.nextafter(total + outward * margin, outward * np.inf)
        moved = np.where(margin == 0, total, moved)
        bounds.append(np.where(np.isnan(moved), outward * np.inf, moved))
    low = np.where(add_all((a.low < 0).astype(float)) == 0, np.maximum(bounds[0], 0.0), bounds[0])
    return Interval(low, bounds[1])


def _near(function: Callable[[Numbers], Numbers], x: Numbers) -> tuple[Numbers, Numbers]:
    """Bounds of an elementary function at points; exact where it maps 0 to 0."""
    with np.errstate(all="ignore"):
        value = np.asarray(function(x), np.float64)
        margin = np.abs(value) * _RELATIVE + _ABSOLUTE
        low, high = value - margin, value + margin
    unknown = np.isnan(value)
    low = np.where(np.isinf(value), _down(value), low)
    high = np.where(np.isinf(value), _up(value), high)
    exact = (x == 0) & (value == 0)
    low = np.where(exact, 0.0, np.where(unknown, -np.inf, low))
    return low, np.where(exact, 0.0, np.where(unknown, np.inf, high))


def _holds_multiple(a: Interval, start: float) -> Numbers:
    """Whether some start + 2πk lies in a, or within rounding of it."""
    with np.errstate(invalid="ignore"):
        last = np.floor((a.high - start) / (2 * math.pi) + 1e-9)
        first = np.ceil((a.low - start) / (2 * math.pi) - 1e-9)
        return ~(last < first)


def _ends(a: Interval) -> tuple[Numbers, ...]:
    """The bounds, once if they are the same."""
    return (a.low,) if a.thin or np.array_equal(a.low, a.high) else (a.low, a.high)


def _down(x: Numbers) -> Numbers:
    return np.where(np.isnan(x), -np.inf, np.nextafter(x, -np.inf))


def _up(x: Numbers) -> Numbers:
    return np.where(np.isnan(x), np.inf, np.nextafter(x, np.inf))


def _cast(x: ArrayLike) -> Numbers:
    x = np.asarray(x)
    return np.asarray(x, np.float64) if x.dtype.kind == "f" else x
