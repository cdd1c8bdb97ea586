"""Rules of comparisons, three-valued logic, conversions and selections.

A comparison that is not the same for the whole box is undecided, and so is what is made of it. A
selection by an undecided predicate is enclosed by the hull of its branches; its slope is the hull
of theirs if the selection is proven to be continuous, else unbounded. It is continuous if the
predicate compares u and v without jumps and both branches agree wherever u = v, which is found by
evaluating the branches once more with v in the place of u.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from loopwm.errors import UsageError
from loopwm.stability.interval.arithmetic import Interval
from loopwm.stability.interval.elementwise import FUNCTIONS, Mask, Node, Rule, chosen, jumps, union

# Primitives between a selection and its branching point that are evaluated again; a longer chain
# is taken for discontinuous.
_DEEPEST = 60


def elementwise(name: str, nodes: Sequence[Node], params: Mapping[str, Any]) -> Node:
    """Applies the rule of an elementwise primitive."""
    node = ELEMENTWISE[name](nodes, params)
    if any(node is given for given in nodes):
        return node
    undefined = node.undefined
    if name != "select_n":
        undefined = union(node.shape, undefined, *(given.undefined for given in nodes))
    seeds = node.seeds if node.slope is None else node.slope.shape[0]
    return dataclasses.replace(
        node, undefined=undefined, seeds=seeds, name=name, inputs=tuple(nodes), params=params
    )


def _truth(yes: Mask, no: Mask, nodes: Sequence[Node]) -> Node:
    """The three-valued node of a statement that surely holds, or surely does not."""
    shape = np.broadcast_shapes(np.shape(yes), *(node.shape for node in nodes))
    nan = union(shape, *(node.undefined for node in nodes))
    low, high = np.broadcast_to(yes, shape), np.broadcast_to(~np.asarray(no), shape)
    if nan is not None:
        low, high = low & ~nan, high | nan
    seeds = max(node.seeds for node in nodes)
    return Node(Interval(low, high), seeds=seeds if np.any(low != high) else 0)


def _compare(name: str) -> Rule:
    def rule(nodes: Sequence[Node], _: Mapping[str, Any]) -> Node:
        a, b = nodes
        x, y = a.value, b.value
        if a is b:
            same = np.full(a.shape, name in ("ge", "le", "eq"))
            return _truth(same, ~same, nodes)
        if name in ("lt", "le"):
            x, y = y, x
        if name in ("eq", "ne"):
            apart = np.asarray((x.high < y.low) | (x.low > y.high))
            equal = np.asarray((x.low == x.high) & (y.low == y.high) & (x.low == y.low))
            equal = equal & (not (a.seeds or b.seeds))
            yes, no = (equal, apart) if name == "eq" else (apart, equal)
        elif a.seeds or b.seeds:
            # Touching counts as undecided, so that the slopes of both sides are in.
            yes, no = x.low > y.high, x.high < y.low
        elif name in ("gt", "lt"):
            yes, no = x.low > y.high, x.high <= y.low
        else:
            yes, no = x.low >= y.high, x.high < y.low
        return _truth(np.asarray(yes), np.asarray(no), nodes)

    return rule


def check_logical(name: str, nodes: Sequence[Node]) -> None:
    """Refuses integers, on which these primitives work bit by bit."""
    if any(node.kind != "b" for node in nodes):
        raise UsageError(
            f"'{name}' is applied to integers that depend on the state, bit by bit; use truth "
            "values, and jax.numpy.where for decisions."
        )


def _not(nodes: Sequence[Node], _: Mapping[str, Any]) -> Node:
    check_logical("not", nodes)
    value = nodes[0].value
    return Node(Interval(~value.high, ~value.low), seeds=nodes[0].seeds)


def _logic(name: str, function: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Rule:
    def rule(nodes: Sequence[Node], _: Mapping[str, Any]) -> Node:
        check_logical(name, nodes)
        x, y = nodes[0].value, nodes[1].value
        return _truth(function(x.low, y.low), ~function(x.high, y.high), nodes)

    return rule


def _xor(nodes: Sequence[Node], _: Mapping[str, Any]) -> Node:
    check_logical("xor", nodes)
    x, y = nodes[0].value, nodes[1].value
    sure = (x.low == x.high) & (y.low == y.high)
    return _truth(sure & (x.low != y.low), sure & (x.low == y.low), nodes)


def _is_finite(nodes: Sequence[Node], _: Mapping[str, Any]) -> Node:
    return _truth(nodes[0].value.bounded, np.zeros(nodes[0].shape, bool), nodes)


def _fits(x: Interval, dtype: np.dtype) -> bool:
    """Whether all these, cut off to integers, are in an integer type's range."""
    limits = np.iinfo(dtype)
    return bool(np.all(np.trunc(x.low) >= limits.min) and np.all(np.trunc(x.high) <= limits.max))


def convert(nodes: Sequence[Node], params: Mapping[str, Any]) -> Node:
    """Another type of number. Floating types are all taken for the real numbers."""
    node, dtype = nodes[0], np.dtype(params["new_dtype"])
    x, target = node.value, dtype.kind
    if target == node.kind and (target not in "iu" or _fits(x, dtype)):
        return node
    if target == "b":
        zero = Node(Interval.exact(np.zeros(())))
        return _compare("ne")((node, zero), {})
    if target == "f":
        low, high = x.low.astype(np.float64), x.high.astype(np.float64)
        if node.kind != "b" and np.any(np.maximum(abs(low), abs(high)) > 2.0**53):
            low, high = np.nextafter(low, -np.inf), np.nextafter(high, np.inf)
    elif _fits(x, dtype) and np.all(x.magnitude < 2.0**31) and node.undefined is None:
        low, high = np.trunc(x.low).astype(np.int64), np.trunc(x.high).astype(np.int64)
    else:
        raise UsageError(
            f"The function turns a number that may lie outside the range of {dtype} into such an "
            "integer; use floating point numbers throughout."
        )
    mask = np.asarray(low != high)
    value = Interval(low, high) if mask.any() else Interval.exact(low)
    if target == "f":
        return Node(value, jumps(node.seeds, mask))
    return Node(value, seeds=node.seeds if mask.any() else 0)


def select(nodes: Sequence[Node], _: Mapping[str, Any]) -> Node:
    """One of the cases for each entry, by a predicate or an index."""
    which, cases = nodes[0], nodes[1:]
    shape = np.broadcast_shapes(*(node.shape for node in nodes))
    low, high = which.value.low.astype(np.int64), which.value.high.astype(np.int64)
    low, high = np.clip(low, 0, len(cases) - 1), np.clip(high, 0, len(cases) - 1)
    possible = [np.broadcast_to((low <= i) & (i <= high), shape) for i in range(len(cases))]
    nan = union(
        shape,
        *(p & c.undefined for p, c in zip(possible, cases, strict=True) if c.undefined is not None),
        which.undefined,
    )
    value = _hull(cases, possible)
    open_ = np.broadcast_to(low != high, shape)
    if cases[0].kind != "f":
        seeds = (
            max((which.seeds, *(c.seeds for c in cases))) if np.any(value.low != value.high) else 0
        )
        return Node(value, undefined=nan, seeds=seeds)
    slope = chosen(shape, cases, possible)
    if which.seeds and open_.any():
        jump = jumps(which.seeds, open_ & ~_agreeing(which, cases, shape))
        if jump is not None:
            base = Interval.exact(np.zeros(jump.shape)) if slope is None else slope
            slope = Interval(np.minimum(base.low, jump.low), np.maximum(base.high, jump.high))
    return Node(value, slope, nan)


def _hull(cases: Sequence[Node], possible: Sequence[Mask]) -> Interval:
    """The smallest interval around the values of all possible cases."""
    shape = possible[0].shape
    low, high = (np.broadcast_to(end, shape) for end in (cases[0].value.low, cases[0].value.high))
    filled = possible[0]
    for case, mask in zip(cases[1:], possible[1:], strict=True):
        x, y = (np.broadcast_to(end, shape) for end in (case.value.low, case.value.high))
        low = np.where(filled & mask, np.minimum(low, x), np.where(mask, x, low))
        high = np.where(filled & mask, np.maximum(high, y), np.where(mask, y, high))
        filled = filled | mask
    return Interval(low, high)


def _agreeing(which: Node, cases: Sequence[Node], shape: tuple[int, ...]) -> np.ndarray:
    """Where two cases are proven to be equal whenever the compared numbers are."""
    never = np.zeros(shape, bool)
    while which.name in ("convert_element_type", "not") and which.kind in "bi":
        which = which.inputs[0]
    if len(cases) != 2 or which.name not in _COMPARISONS:
        return never
    u, v = which.inputs
    if not u.seeds:
        u, v = v, u
    for node in (u, v):
        if node.undefined is not None or node.kind != "f":
            return never
        if node.slope is not None and not node.slope.bounded.all():
            return never
    memo: dict[int, Node] = {}
    first, second = (_at(case, u, v, memo, _DEEPEST) for case in cases)
    if first is second:
        return ~never
    if first.undefined is not None or second.undefined is not None:
        return never
    x, y = first.value, second.value
    equal = (x.low == x.high) & (y.low == y.high) & (x.low == y.low) & np.isfinite(x.low)
    return np.broadcast_to(equal, shape)


def _at(node: Node, u: Node, v: Node, memo: dict[int, Node], depth: int) -> Node:
    """The node with v in the place of u, through elementwise primitives; without slopes."""
    if id(node) in memo:
        return memo[id(node)]
    if node is u and v is not u:
        found = _at(v, v, v, memo, 0)
    elif node.seeds and node.name in ELEMENTWISE and node is not v and depth > 0:
        inputs = [_at(given, u, v, memo, depth - 1) for given in node.inputs]
        found = elementwise(node.name, inputs, node.params)
    else:
        found = Node(node.value, undefined=node.undefined)
    memo[id(node)] = found
    return found


_COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")

ELEMENTWISE: dict[str, Rule] = {
    **FUNCTIONS,
    **{name: _compare(name) for name in _COMPARISONS},
    "not": _not,
    "and": _logic("and", np.logical_and),
    "or": _logic("or", np.logical_or),
    "xor": _xor,
    "is_finite": _is_finite,
    "convert_element_type": convert,
    "select_n": select,
}
"""Rules of all elementwise primitives, by name."""
