"""Rules of array primitives: moving, reducing and multiplying values with slopes over a box."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from loopwm.errors import UsageError
from loopwm.stability.interval import arithmetic as ia
from loopwm.stability.interval.arithmetic import Interval
from loopwm.stability.interval.elementwise import Node, constant, minus, unary, union
from loopwm.stability.interval.select import check_logical

Params = Mapping[str, Any]


def take(nodes: Sequence[Node], index: np.ndarray | np.integer) -> Node:
    """Entries of the flattened nodes, one after the other, by their number; undefined below 0."""
    beyond = index < 0
    index = np.where(beyond, 0, index)

    def pick(arrays: list[np.ndarray]) -> Any:
        flat = arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=-1)
        return flat[..., index]

    low = pick([node.value.low.reshape(-1) for node in nodes])
    if all(node.value.thin for node in nodes):
        value = Interval.exact(low)
    else:
        value = Interval(low, pick([node.value.high.reshape(-1) for node in nodes]))
    if beyond.any():
        value = ia.where(beyond, ia.everything(index.shape), value)
    nan = None
    if any(node.undefined is not None for node in nodes):
        masks = [np.zeros(n.shape, bool) if n.undefined is None else n.undefined for n in nodes]
        nan = pick([mask.reshape(-1) for mask in masks])
    seeds = max(node.seeds for node in nodes)
    slope = None
    if any(node.slope is not None for node in nodes):
        ends = []
        for end in ("low", "high"):
            parts = [
                np.zeros((seeds, math.prod(node.shape)))
                if node.slope is None
                else getattr(node.slope, end).reshape(seeds, -1)
                for node in nodes
            ]
            ends.append(pick(parts))
        slope = Interval(*ends)
    return Node(value, slope, union(index.shape, nan, beyond), seeds)


def numbered(shapes: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
    """Arrays of the shapes, filled with their entries' numbers from 0 on, one after the other."""
    arrays, start = [], 0
    for shape in shapes:
        size = math.prod(shape)
        arrays.append(np.arange(start, start + size).reshape(shape))
        start += size
    return arrays


def _slice(x: np.ndarray, p: Params) -> np.ndarray:
    strides = p["strides"] or (1,) * x.ndim
    ends = zip(p["start_indices"], p["limit_indices"], strides, strict=True)
    return x[tuple(slice(*end) for end in ends)]


def _broadcast(x: np.ndarray, p: Params) -> np.ndarray:
    shape = [1] * len(p["shape"])
    for axis, size in zip(p["broadcast_dimensions"], x.shape, strict=True):
        shape[axis] = size
    return np.broadcast_to(x.reshape(shape), p["shape"])


# Primitives that only move entries of one array.
MOVES: dict[str, Callable[[np.ndarray, Params], np.ndarray]] = {
    "reshape": lambda x, p: x.reshape(p["new_sizes"]),
    "squeeze": lambda x, p: np.squeeze(x, axis=tuple(p["dimensions"])),
    "expand_dims": lambda x, p: np.expand_dims(x, tuple(p["dimensions"])),
    "transpose": lambda x, p: np.transpose(x, p["permutation"]),
    "rev": lambda x, p: np.flip(x, p["dimensions"]),
    "slice": _slice,
    "broadcast_in_dim": _broadcast,
    "tile": lambda x, p: np.tile(x, p["reps"]),
}

# Primitives that move entries of the arguments named here, to places that the others say. JAX
# itself tells where each entry goes.
PLACED = {
    "gather": (0,),
    "dynamic_slice": (0,),
    "dynamic_update_slice": (0, 1),
    "scatter": (0, 2),
    "pad": (0, 1),
}


def place(equation: Any, nodes: Sequence[Node]) -> Node:
    """Applies one of the primitives that need indices, or a padding."""
    name = equation.primitive.name
    data = [nodes[i] for i in PLACED[name]]
    numbers = iter(numbered([node.shape for node in data]))
    arguments = []
    for i, (node, variable) in enumerate(zip(nodes, equation.invars, strict=True)):
        if i in PLACED[name]:
            arguments.append(jnp.asarray(next(numbers), jnp.int32))
        elif node.known:
            arguments.append(jnp.asarray(node.value.low, variable.aval.dtype))
        else:
            raise UsageError(
                f"An index of '{name}' depends on the state, so it cannot be followed over a box; "
                "use fixed indices, or a mask and jax.numpy.where."
            )
    params = dict(equation.params)
    if "fill_value" in params:
        params["fill_value"] = -1  # `take` knows it for what lies outside
    return take(data, np.asarray(equation.primitive.bind(*arguments, **params)))


def total(node: Node, axes: tuple[int, ...]) -> Node:
    """Sum over axes."""
    value = ia.sums(node.value, axes)
    slope = None
    if node.slope is not None:
        slope = ia.sums(node.slope, tuple(axis + 1 for axis in axes))
    return Node(value, slope, ~value.bounded)


def largest(node: Node, axes: tuple[int, ...]) -> Node:
    """Maximum over axes; its slope is the hull of those of all entries that may be largest."""
    x = node.value
    low, high = x.low.max(axis=axes, keepdims=True), x.high.max(axis=axes)
    slope = None
    if node.slope is not None:
        possible, moved = x.high >= low, tuple(axis + 1 for axis in axes)
        slope = Interval(
            np.where(possible, node.slope.low, np.inf).min(axis=moved),
            np.where(possible, node.slope.high, -np.inf).max(axis=moved),
        )
    return Node(Interval(low.reshape(np.shape(high)), high), slope)


def _all_or_any(name: str, node: Node, axes: tuple[int, ...], function: Callable) -> Node:
    check_logical(name, [node])
    value = Interval(function(node.value.low, axis=axes), function(node.value.high, axis=axes))
    return Node(value, seeds=node.seeds)


def _cumulative(node: Node, params: Params) -> Node:
    """Cumulative sum along an axis."""
    axis, numbers = params["axis"], numbered([node.shape])[0]
    if params["reverse"]:
        node = take([node], np.flip(numbers, axis))
    value = ia.running_sums(node.value, axis)
    slope = None if node.slope is None else ia.running_sums(node.slope, axis + 1)
    result = Node(value, slope, ~value.bounded, node.seeds)
    return take([result], np.flip(numbers, axis)) if params["reverse"] else result


def product(a: Node, b: Node) -> Node:
    """Matrix products of shapes (*batch, m, k) and (*batch, k, n)."""
    value, slope = ia.product(a.value, b.value), None
    if b.slope is not None:
        slope = ia.product(a.value, b.slope)
    if a.slope is not None:
        part = ia.product(a.slope, b.value)
        slope = part if slope is None else ia.add(slope, part)
    return Node(value, slope, ~value.bounded, max(a.seeds, b.seeds))


def _dot_general(nodes: Sequence[Node], params: Params) -> Node:
    (left, right), (left_batch, right_batch) = params["dimension_numbers"]
    a, b = numbered([nodes[0].shape])[0], numbered([nodes[1].shape])[0]
    left_free = [i for i in range(a.ndim) if i not in (*left, *left_batch)]
    right_free = [i for i in range(b.ndim) if i not in (*right, *right_batch)]
    batch = [a.shape[i] for i in left_batch]
    rows, columns = [a.shape[i] for i in left_free], [b.shape[i] for i in right_free]
    terms = math.prod(a.shape[i] for i in left)
    first = a.transpose(*left_batch, *left_free, *left).reshape(*batch, math.prod(rows), terms)
    second = b.transpose(*right_batch, *right, *right_free)
    second = second.reshape(*batch, terms, math.prod(columns))
    result = product(take(nodes[:1], first), take(nodes[1:], second))
    return take([result], numbered([(*batch, *rows, *columns)])[0])


def windows(
    shape: Sequence[int],
    size: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    base_dilation: Sequence[int],
    dilation: Sequence[int],
) -> np.ndarray:
    """Numbers of the entries in every window, shape (*positions, *size); −1 in the padding."""
    rank = len(shape)
    index, inside = np.zeros((1,) * (2 * rank), int), np.ones((1,) * (2 * rank), bool)
    for axis in range(rank):
        before, after = padding[axis]
        spread = (shape[axis] - 1) * base_dilation[axis] + 1
        reach = (size[axis] - 1) * dilation[axis] + 1
        count = (spread + before + after - reach) // strides[axis] + 1
        start = np.arange(count)[:, None] * strides[axis] - before
        position = start + np.arange(size[axis])[None, :] * dilation[axis]
        valid = (position >= 0) & (position < spread) & (position % base_dilation[axis] == 0)
        form = [1] * (2 * rank)
        form[axis], form[rank + axis] = position.shape
        index = index * shape[axis] + (position // base_dilation[axis]).reshape(form)
        inside = inside & valid.reshape(form)
    return np.where(inside, index, -1)


def _convolution(nodes: Sequence[Node], params: Params) -> Node:
    """A convolution as the matrix product of all windows with the kernel."""
    numbers, groups = params["dimension_numbers"], params["feature_group_count"]
    if params["batch_group_count"] != 1:
        raise UsageError("The function groups a convolution by batch; use feature groups.")
    image = numbered([nodes[0].shape])[0].transpose(numbers.lhs_spec)
    kernel = numbered([nodes[1].shape])[0].transpose(numbers.rhs_spec)
    batch, channels, *spatial = image.shape
    features, _, *size = kernel.shape
    where = windows(
        spatial,
        size,
        params["window_strides"],
        params["padding"],
        params["lhs_dilation"],
        params["rhs_dilation"],
    )
    positions = where.shape[: len(size)]
    where = where.reshape(math.prod(positions), math.prod(size))
    # One entry more, for the zeros of the padding.
    rows = image.reshape(batch, groups, channels // groups, math.prod(spatial))
    rows = np.pad(rows, [(0, 0)] * 3 + [(0, 1)], constant_values=image.size)[..., where]
    rows = rows.transpose(1, 0, 3, 2, 4).reshape(groups, batch * len(where), -1)
    columns = kernel.reshape(groups, features // groups, -1).transpose(0, 2, 1)
    padded = [nodes[0], constant(np.zeros(()))]
    result = product(take(padded, rows), take(nodes[1:], columns))
    order = numbered([result.shape])[0].reshape(groups, batch, *positions, features // groups)
    order = np.moveaxis(order, 0, -2).reshape(batch, *positions, features)
    order = np.moveaxis(order, -1, 1)
    return take([result], order.transpose(np.argsort(numbers.out_spec)))


def _window_rule(fill: float, reduce: Callable[[Node, tuple[int, ...]], Node]) -> Callable:
    def rule(nodes: Sequence[Node], params: Params) -> Node:
        node = nodes[0]
        index = windows(
            node.shape,
            params["window_dimensions"],
            params["window_strides"],
            params["padding"],
            params["base_dilation"],
            params["window_dilation"],
        )
        index = np.where(index < 0, math.prod(node.shape), index)
        rank = len(node.shape)
        filled = take([node, constant(np.asarray(fill))], index)
        return reduce(filled, tuple(range(rank, 2 * rank)))

    return rule


def _sort(nodes: Sequence[Node], params: Params) -> Node:
    """Sorted entries; the slope is the hull of those of all entries that may have the rank."""
    if len(nodes) != 1:
        raise UsageError("The function sorts several arrays by one; use jax.numpy.sort alone.")
    axis = params["dimension"]
    order = np.moveaxis(numbered([nodes[0].shape])[0], axis, -1)
    node = take(nodes, order)
    low, high = node.value.low, node.value.high
    slope, ranks = None, np.arange(low.shape[-1])
    if node.slope is not None:
        below = (high[..., None, :] < low[..., :, None]).sum(axis=-1)[..., None]
        above = (low[..., None, :] > high[..., :, None]).sum(axis=-1)[..., None]
        possible = (below <= ranks) & (ranks <= len(ranks) - 1 - above)  # (entry, rank)
        slope = Interval(
            np.where(possible, node.slope.low[..., None], np.inf).min(axis=-2),
            np.where(possible, node.slope.high[..., None], -np.inf).max(axis=-2),
        )
    result = Node(Interval(np.sort(low), np.sort(high)), slope, seeds=node.seeds)
    return take([result], np.moveaxis(numbered([result.shape])[0], -1, axis))


def softmax_logits(a: Node, b: Node) -> tuple[Node, tuple[int, ...]] | None:
    """The logits x and axes of a / b = exp(x − c) / Σ exp(x − c), with c constant on the axes."""
    if a.name != "exp":
        return None
    axes_of = b.inputs[0] if b.name == "broadcast_in_dim" else b
    if axes_of.name != "reduce_sum" or axes_of.inputs[0] is not a:
        return None
    axes = tuple(int(axis) for axis in axes_of.params["axes"])
    kept = tuple(axis for axis in range(len(a.shape)) if axis not in axes)
    if b is not axes_of and tuple(b.params["broadcast_dimensions"]) != kept:
        return None
    if b is axes_of and kept:
        return None
    logits = a.inputs[0]
    if logits.name == "sub":
        first, shift = logits.inputs
        flat = not shift.shape or all(shift.shape[axis] == 1 for axis in axes)
        if first.shape == a.shape and flat:
            logits = first
    return (logits, axes) if logits.value.bounded.all() else None


def softmax(node: Node, axes: tuple[int, ...]) -> Node:
    """Softmax p, with p_i(x) − p_i(y) = Σ_j m_ij (Δx_i − Δx_j), m_ij in p_i p_j, for any shift."""
    kept = [axis for axis in range(len(node.shape)) if axis not in axes]
    order = numbered([node.shape])[0].transpose(*kept, *axes)
    back = np.argsort(order.reshape(-1)).reshape(node.shape)
    node = take([node], order.reshape(-1, math.prod(node.shape[axis] for axis in axes)))

    def pairs(x: Interval) -> Interval:
        """x_j − x_i at (i, j), exactly 0 on the diagonal."""
        first, second = _expanded(x, -1), _expanded(x, -2)
        moved = ia.add(second, ia.negative(first))
        return ia.where(np.eye(x.shape[-1], dtype=bool), Interval.exact(np.zeros(())), moved)

    last = (len(node.shape),)
    scaled = ia.sums(unary("exp", Node(pairs(node.value))).value, last)
    p = ia.clipped(ia.divide(Interval.exact(np.ones(())), scaled), 0.0, 1.0)
    slope = None
    if node.slope is not None:
        mixed = ia.multiply(_expanded(p, -1), _expanded(p, -2))
        weighted = ia.multiply(mixed, ia.negative(pairs(node.slope)))
        slope = ia.sums(weighted, (last[0] + 1,))
    return take([Node(p, slope, seeds=node.seeds)], back)


def _expanded(x: Interval, axis: int) -> Interval:
    return Interval(np.expand_dims(x.low, axis), np.expand_dims(x.high, axis))


def _axes(params: Params) -> tuple[int, ...]:
    return tuple(int(axis) for axis in params["axes"])


# An undefined entry of an argument makes the whole result undefined.
MIXES: dict[str, Callable[[Sequence[Node], Params], Node]] = {
    "reduce_sum": lambda nodes, p: total(nodes[0], _axes(p)),
    "reduce_max": lambda nodes, p: largest(nodes[0], _axes(p)),
    "reduce_min": lambda nodes, p: minus(largest(minus(nodes[0]), _axes(p))),
    "reduce_and": lambda nodes, p: _all_or_any("reduce_and", nodes[0], _axes(p), np.all),
    "reduce_or": lambda nodes, p: _all_or_any("reduce_or", nodes[0], _axes(p), np.any),
    "cumsum": lambda nodes, p: _cumulative(nodes[0], p),
    "dot_general": _dot_general,
    "conv_general_dilated": _convolution,
    "reduce_window_max": _window_rule(-np.inf, largest),
    "reduce_window_min": _window_rule(np.inf, lambda n, axes: minus(largest(minus(n), axes))),
    "reduce_window_sum": _window_rule(0.0, total),
    "sort": _sort,
}
