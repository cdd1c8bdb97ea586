r"""Rules of elementwise JAX primitives for values with slopes over a box.

A `Node` carries, for one value u of a program, an interval that contains u(x) for every x in the
box, and an interval matrix S of *slopes*: for any two points x, y of the box there is an s in S
with u(x) − u(y) = s (x − y). Slopes chain like derivatives, by the mean value theorem in each
primitive, and they contain every derivative and Clarke's generalised Jacobian. Unlike the
derivative that JAX computes, they count what `stop_gradient`, a custom derivative rule or a jump
hides: a jump has the slope (−∞, ∞).
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from loopwm.stability.interval import arithmetic as ia
from loopwm.stability.interval.arithmetic import Interval

Mask = np.ndarray | np.bool
"""Truth values, one for each entry."""


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
    """A value of the program over the box, and how it was made."""

    value: Interval
    """Encloses the value, shape (*shape); of floats, or of bools and integers."""
    slope: Interval | None = None
    """Encloses the slopes, shape (seeds, *shape); None where the value does not change."""
    undefined: Mask | None = None
    """Where the program may give NaN for some state, shape (*shape); None for nowhere."""
    seeds: int = 0
    """Entries of the state that it may depend on; 0 where it does not change over the box."""
    name: str = ""
    """The primitive that made it."""
    inputs: tuple["Node", ...] = ()
    """What the primitive was given."""
    params: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Parameters of the primitive."""
    center: "Node | None" = None
    """The same value at the centre of the region alone; None where it is this one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the value."""
        return self.value.shape

    @property
    def kind(self) -> str:
        """NumPy's kind of the value: "f", "b", "i" or "u"."""
        return self.value.low.dtype.kind

    @property
    def known(self) -> bool:
        """Whether it is one number everywhere on the box, without rounding."""
        return not self.seeds and self.value.thin and self.undefined is None


Rule = Callable[[Sequence[Node], Mapping[str, Any]], Node]


def constant(value: Any) -> Node:
    """The node of one array."""
    return Node(Interval.exact(value))


def lifted(node: Node, rank: int) -> Interval:
    """The slope of a varying node, with axes put in front so that it broadcasts to a rank."""
    slope = node.slope
    assert slope is not None
    shape = (slope.shape[0], *(1,) * (rank - len(node.shape)), *node.shape)
    low = slope.low.reshape(shape)
    return Interval(low, low if slope.thin else slope.high.reshape(shape))


def slopes(shape: tuple[int, ...], *terms: tuple[Interval | None, Node]) -> Interval | None:
    """Σ factor · slope over the terms, shape (seeds, *shape); a factor None is 1."""
    total = None
    for factor, node in terms:
        if node.slope is None:
            continue
        slope = lifted(node, len(shape))
        part = slope if factor is None else ia.multiply(factor, slope)
        total = part if total is None else ia.add(total, part)
    if total is None:
        return None
    full = (total.shape[0], *shape)
    return Interval(np.broadcast_to(total.low, full), np.broadcast_to(total.high, full))


def chosen(
    shape: tuple[int, ...], nodes: Sequence[Node], possible: Sequence[Mask]
) -> Interval | None:
    """Hull of the slopes of the nodes that are possible, for each entry."""
    seeds = max(0 if node.slope is None else node.slope.shape[0] for node in nodes)
    if not seeds:
        return None
    low, high = np.full((seeds, *shape), np.inf), np.full((seeds, *shape), -np.inf)
    for node, mask in zip(nodes, possible, strict=True):
        slope = _ZERO if node.slope is None else lifted(node, len(shape))
        low = np.where(mask, np.minimum(low, slope.low), low)
        high = np.where(mask, np.maximum(high, slope.high), high)
    return Interval(low, high)


def jumps(seeds: int, mask: Mask) -> Interval | None:
    """Slope of a step function: unbounded where it may jump, else 0."""
    if not seeds or not mask.any():
        return None
    high = np.broadcast_to(np.where(mask, np.inf, 0.0), (seeds, *mask.shape))
    return Interval(-high, high)


def union(shape: tuple[int, ...], *masks: Mask | None) -> np.ndarray | None:
    """Where one of the masks holds; None for nowhere."""
    found = [np.broadcast_to(mask, shape) for mask in masks if mask is not None and mask.any()]
    return np.asarray(np.logical_or.reduce(found)) if found else None


_ONE = Interval.exact(np.ones(()))
_ZERO = Interval.exact(np.zeros(()))
_TWO = Interval.exact(np.asarray(2.0))
_erf = np.vectorize(math.erf, otypes=[float])
_erfc = np.vectorize(math.erfc, otypes=[float])


def _bell(x: Interval) -> Interval:
    return ia.peaked(lambda v: 2.0 / math.sqrt(math.pi) * np.exp(-v * v), x)


def _growing(function: Callable, low: float = -np.inf, high: float = np.inf) -> Callable:
    return lambda x: ia.clipped(ia.increasing(function, x), low, high)


def _falling(function: Callable) -> Callable:
    return lambda x: ia.decreasing(function, x)


def _sine(x: Interval) -> Interval:
    return ia.wave(np.sin, x, math.pi / 2)


def _cosine(x: Interval) -> Interval:
    return ia.wave(np.cos, x, 0.0)


def _sign(x: Interval) -> Interval:
    return Interval(np.where(x.low > 0, 1.0, -1.0), np.where(x.high < 0, -1.0, 1.0))


def _positive(x: Interval) -> np.ndarray:
    return np.asarray(x.low > 0)


_exp = _growing(np.exp, 0.0)

# Value, derivative, and where the function is defined (None: everywhere).
_UNARY: dict[str, tuple[Callable, Callable, Callable | None]] = {
    "neg": (ia.negative, lambda x: Interval.exact(np.full(x.shape, -1.0)), None),
    "abs": (ia.absolute, _sign, None),
    "exp": (_exp, _exp, None),
    "exp2": (
        _growing(np.exp2, 0.0),
        _growing(lambda v: math.log(2.0) * np.exp2(v), 0.0),
        None,
    ),
    "expm1": (_growing(np.expm1, -1.0), _exp, None),
    "log": (_growing(np.log), lambda x: ia.divide(_ONE, x), _positive),
    "log1p": (
        _growing(np.log1p),
        lambda x: ia.divide(_ONE, ia.add(_ONE, x)),
        lambda x: x.low > -1.0,
    ),
    "tanh": (
        _growing(np.tanh, -1.0, 1.0),
        lambda x: ia.clipped(ia.peaked(lambda v: 1.0 / np.cosh(v) ** 2, x), 0.0, 1.0),
        None,
    ),
    "logistic": (
        _growing(lambda v: 1.0 / (1.0 + np.exp(-v)), 0.0, 1.0),
        lambda x: ia.clipped(ia.peaked(lambda v: 0.25 / np.cosh(0.5 * v) ** 2, x), 0.0, 0.25),
        None,
    ),
    "sqrt": (
        _growing(np.sqrt, 0.0),
        lambda x: ia.decreasing(lambda v: 0.5 / np.sqrt(v), x),
        lambda x: x.low >= 0,
    ),
    "rsqrt": (
        _falling(lambda v: 1.0 / np.sqrt(v)),
        _growing(lambda v: -0.5 / (v * np.sqrt(v))),
        _positive,
    ),
    "square": (ia.square, lambda x: ia.multiply(_TWO, x), None),
    "erf": (_growing(_erf, -1.0, 1.0), _bell, None),
    "erfc": (_falling(_erfc), lambda x: ia.negative(_bell(x)), None),
    "sin": (_sine, _cosine, lambda x: x.bounded),
    "cos": (_cosine, lambda x: ia.negative(_sine(x)), lambda x: x.bounded),
    "atan": (_growing(np.arctan), lambda x: ia.peaked(lambda v: 1.0 / (1.0 + v * v), x), None),
    "sinh": (_growing(np.sinh), lambda x: ia.increasing(np.cosh, ia.absolute(x)), None),
    "cosh": (lambda x: ia.increasing(np.cosh, ia.absolute(x)), _growing(np.sinh), None),
}


def unary(name: str, node: Node) -> Node:
    """A differentiable function of one argument; undefined outside its domain."""
    value, derivative, defined = _UNARY[name]
    x = node.value
    outside = None if defined is None else ~defined(x)
    result, slope = value(x), None
    if node.slope is not None:
        slope = slopes(x.shape, (derivative(x), node))
    if outside is not None and outside.any():
        result = ia.where(outside, ia.everything(x.shape), result)
        if slope is not None:
            slope = ia.where(outside, ia.everything(slope.shape), slope)
    return Node(result, slope, outside)


def minus(node: Node) -> Node:
    """−u."""
    slope = None if node.slope is None else ia.negative(node.slope)
    return Node(ia.negative(node.value), slope)


def plus(a: Node, b: Node) -> Node:
    """a + b; NaN is possible where one may be ∞ and the other −∞."""
    x, y = a.value, b.value
    nan = ((x.high == np.inf) & (y.low == -np.inf)) | ((x.low == -np.inf) & (y.high == np.inf))
    result = ia.add(x, y)
    return Node(result, slopes(result.shape, (None, a), (None, b)), nan)


def times(a: Node, b: Node) -> Node:
    """a · b, with a(x)b(x) − a(y)b(y) = a(x)(b(x) − b(y)) + b(y)(a(x) − a(y))."""
    x, y = a.value, b.value
    if a is b:
        return unary("square", a)
    nan = (~x.bounded & ia.has_zero(y)) | (~y.bounded & ia.has_zero(x))
    result = ia.multiply(x, y)
    return Node(result, slopes(result.shape, (x, b), (y, a)), nan)


def over(a: Node, b: Node) -> Node:
    """a / b = q, with q(x) − q(y) = (a(x) − a(y) − q(y)(b(x) − b(y))) / b(x)."""
    x, y = a.value, b.value
    nan = ia.has_zero(y) | (~x.bounded & ~y.bounded)
    result = ia.divide(x, y)
    inner = slopes(result.shape, (None, a), (ia.negative(result), b))
    slope = None if inner is None else ia.divide(inner, y)
    return Node(result, slope, nan)


def larger(a: Node, b: Node) -> Node:
    """max(a, b); touching counts as undecided, so that both slopes are in."""
    x, y = a.value, b.value
    result = Interval(np.maximum(x.low, y.low), np.maximum(x.high, y.high))
    possible = [np.asarray(x.high >= y.low), np.asarray(y.high >= x.low)]
    return Node(result, chosen(result.shape, [a, b], possible))


def smaller(a: Node, b: Node) -> Node:
    """min(a, b)."""
    return minus(larger(minus(a), minus(b)))


def whole_power(node: Node, exponent: int) -> Node:
    """uⁿ for an integer n."""
    x = node.value
    result = ia.power(x, exponent)
    factor = ia.multiply(Interval.exact(float(exponent)), ia.power(x, exponent - 1))
    outside = ia.has_zero(x) if exponent < 0 else None
    return Node(result, slopes(x.shape, (factor, node)), outside)


def raised(a: Node, b: Node) -> Node:
    """a^b: exact for a constant integer b, else exp(b log a) for positive a."""
    exponents = np.unique(b.value.low)
    if b.known and exponents.size == 1 and float(exponents[0]).is_integer():
        return whole_power(a, int(exponents[0]))
    logarithm = unary("log", a)
    scaled = times(b, logarithm)
    result = unary("exp", scaled)
    masks = (logarithm.undefined, scaled.undefined)
    return dataclasses.replace(result, undefined=union(result.shape, *masks))


def step(function: Callable[[np.ndarray], np.ndarray], node: Node) -> Node:
    """A nondecreasing step function, whose slope is 0 or, where it may jump, unbounded."""
    low, high = np.asarray(function(node.value.low)), np.asarray(function(node.value.high))
    return Node(Interval(low, high), jumps(node.seeds, np.asarray(low != high)))


def log_add_exp(a: Node, b: Node) -> Node:
    """log(eᵃ + eᵇ), with slopes σ(a − b) and σ(b − a)."""
    low = np.logaddexp(a.value.low, b.value.low)
    high = np.logaddexp(a.value.high, b.value.high)
    # An absolute margin beside the relative one, because the logarithm may cancel near 0.
    margins = [2.0**-45 * (np.abs(v) + 1.0) for v in (low, high)]
    share = unary("logistic", plus(a, minus(b))).value
    rest = ia.add(_ONE, ia.negative(share))
    value = Interval(low - margins[0], high + margins[1])
    return Node(value, slopes(value.shape, (share, a), (rest, b)))


def _softplus_pair(a: Node, b: Node) -> tuple[Node, Node] | None:
    """c and d where the sum a + b is max(c, d) + log1p(exp(−|c − d|))."""
    for top, rest in ((a, b), (b, a)):
        chain = []
        for name in ("log1p", "exp", "neg", "abs"):
            if rest.name != name:
                break
            chain.append(name)
            rest = rest.inputs[0]
        if top.name == "max" and rest.name == "sub" and len(chain) == 4:
            c, d = top.inputs
            if (rest.inputs[0] is c and rest.inputs[1] is d) or (
                rest.inputs[0] is d and rest.inputs[1] is c
            ):
                if c.value.bounded.all() and d.value.bounded.all():
                    return c, d
    return None


def added(nodes: Sequence[Node], _: Mapping[str, Any]) -> Node:
    """a + b, or log(eᶜ + eᵈ) where that is what it adds up."""
    pair = _softplus_pair(*nodes)
    return plus(*nodes) if pair is None else log_add_exp(*pair)


def _binary(rule: Callable[[Node, Node], Node]) -> Rule:
    return lambda nodes, _: rule(*nodes)


FUNCTIONS: dict[str, Rule] = {
    "add": added,
    "add_any": added,
    "sub": lambda nodes, _: plus(nodes[0], minus(nodes[1])),
    "mul": _binary(times),
    "div": _binary(over),
    "max": _binary(larger),
    "min": _binary(smaller),
    "pow": _binary(raised),
    "integer_pow": lambda nodes, params: whole_power(nodes[0], params["y"]),
    "clamp": lambda nodes, _: smaller(larger(nodes[1], nodes[0]), nodes[2]),
    "sign": lambda nodes, _: step(np.sign, nodes[0]),
    "floor": lambda nodes, _: step(np.floor, nodes[0]),
    "ceil": lambda nodes, _: step(np.ceil, nodes[0]),
}
"""Rules of real functions, by the name of the primitive."""


def _register(name: str) -> None:
    FUNCTIONS[name] = lambda nodes, _: unary(name, nodes[0])


for _name in _UNARY:
    _register(_name)
