"""Runs the program of a function on a box: calls, loops, and one rule for each primitive."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr

from loopwm.errors import UsageError
from loopwm.stability.checks import tracing
from loopwm.stability.interval import arithmetic as ia
from loopwm.stability.interval.arithmetic import Interval
from loopwm.stability.interval.arrays import (
    MIXES,
    MOVES,
    PLACED,
    numbered,
    place,
    softmax,
    softmax_logits,
    take,
)
from loopwm.stability.interval.elementwise import FUNCTIONS, Node, constant, union
from loopwm.stability.interval.region import Region
from loopwm.stability.interval.select import ELEMENTWISE, elementwise

_CALLS = (
    "jit",
    "pjit",
    "closed_call",
    "core_call",
    "custom_jvp_call",
    "custom_vjp_call",
    "remat",
    "remat2",
    "checkpoint",
)
_LONGEST_SCAN = 1000
_MOST_SLOPES = 2**27
# Identities of real numbers, whatever JAX makes of their derivative.
_SAME = ("stop_gradient", "copy", "device_put", "optimization_barrier")
# Moves from or to several arrays.
_SEVERAL: dict[str, Callable[[list[np.ndarray], Any], Iterable[np.ndarray]]] = {
    "concatenate": lambda xs, p: [np.concatenate(xs, axis=p["dimension"])],
    "stack": lambda xs, p: [np.stack(xs, axis=p["axis"])],
    "unstack": lambda xs, p: np.moveaxis(xs[0], p["axis"], 0),
    "split": lambda xs, p: np.split(xs[0], np.cumsum(p["sizes"])[:-1], axis=p["axis"]),
}
# These take truth values that depend on the state.
_LOGICAL = ("reduce_and", "reduce_or")
# Handled by name.
_OTHERS = ("iota", "scan", "cond", *_CALLS, *_SEVERAL)


def trace(function: Callable, shape: tuple[int, ...], dtype: np.dtype | None = None) -> ClosedJaxpr:
    """The program of a function of one array.

    Args:
        function: as in `enclose`.
        shape: shape of its argument.
        dtype: type of its argument; by default float32, or float64 where JAX has it switched on.

    Raises:
        UsageError: the function cannot be traced or returns something else than one array.
    """
    dtype = np.dtype(dtype or jnp.zeros(()).dtype)
    with tracing("The function", shape):
        program, out = jax.make_jaxpr(lambda x: function(x), return_shape=True)(
            jax.ShapeDtypeStruct(shape, dtype)
        )
    if not isinstance(out, jax.ShapeDtypeStruct) or not jnp.issubdtype(out.dtype, jnp.floating):
        raise UsageError(
            "The function returns something else than one floating point array; pass a function "
            "from an array to an array."
        )
    return program


def run(program: ClosedJaxpr, region: Region, *, slopes: bool) -> Node:
    """Evaluates the program of a function of one array on a set of states.

    Args:
        program: the program, from `trace`.
        region: the states, of a shape as in the trace.
        slopes: whether slopes are wanted beside the values; values are tighter with them.

    Returns:
        The result's node.

    Raises:
        UsageError: the program has NaN weights or a primitive without an interval rule.
    """
    state = region.state() if slopes else Node(region.box)
    weights = _constants(program)
    if any(node.undefined is not None for node in weights):
        raise UsageError(
            "The function has NaN weights, so nothing can be enclosed; load an earlier checkpoint."
        )
    return _Evaluation(region).run(program.jaxpr, weights, [state])[0]


def values(node: Node) -> Interval:
    """The enclosure of a result, unbounded where it may be NaN."""
    if node.undefined is None:
        return node.value
    return ia.where(node.undefined, ia.everything(node.shape), node.value)


def slopes(node: Node, shape: tuple[int, ...]) -> tuple[Interval, np.ndarray]:
    """The enclosure of the slopes of a result, and ρ of each entry.

    Args:
        node: the result, of a run with slopes.
        shape: shape of the state.

    Returns:
        The slopes, shape (*out, *shape), and ρ, shape (*out); unbounded where it may be NaN.
    """
    size = int(np.prod(shape))
    slope = node.slope
    if slope is None:
        slope = Interval.exact(np.zeros((size + 1, *node.shape)))
    if node.undefined is not None:
        slope = ia.where(node.undefined, ia.everything(slope.shape), slope)
    low, high = (
        np.moveaxis(end[:-1], 0, -1).reshape((*node.shape, *shape))
        for end in (slope.low, slope.high)
    )
    return Interval(low, high), np.asarray(slope.magnitude[-1])


def _constants(program: Any) -> list[Node]:
    """Nodes of the weights that a program closes over."""
    pairs = zip(program.consts, program.jaxpr.constvars, strict=True)
    return [_leaf(value, variable.aval) for value, variable in pairs]


def _leaf(value: Any, aval: Any) -> Node:
    """The node of a weight or a literal, in the type that the program gives it."""
    _check_type(aval)
    array = np.asarray(value, aval.dtype)
    if array.dtype.kind != "f" or not np.isnan(array).any():
        return constant(array)
    nan = np.isnan(array)
    exact = Interval.exact(np.where(nan, 0.0, array))
    return Node(ia.where(nan, ia.everything(array.shape), exact), undefined=nan)


def _check_type(aval: Any) -> None:
    """Refuses types in which rounding is no small thing, and those that are no real numbers."""
    dtype = aval.dtype
    real = any(jnp.issubdtype(dtype, kind) for kind in (jnp.floating, jnp.integer, jnp.bool_))
    if real and not (jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize < 4):
        return
    raise UsageError(
        f"The function uses numbers of type {dtype}, which are not enclosed; cast them to float32."
    )


@dataclasses.dataclass(frozen=True)
class _Evaluation:
    """The evaluation of jaxprs on a region."""

    region: Region

    def run(self, jaxpr: Any, weights: Sequence[Node], arguments: Sequence[Node]) -> list[Node]:
        """Evaluates a jaxpr, equation by equation."""
        nodes: dict[Any, Node] = {}
        nodes.update(zip(jaxpr.constvars, weights, strict=True))
        nodes.update(zip(jaxpr.invars, arguments, strict=True))

        def read(atom: Any) -> Node:
            return _leaf(atom.val, atom.aval) if hasattr(atom, "val") else nodes[atom]

        for equation in jaxpr.eqns:
            inputs = [read(atom) for atom in equation.invars]
            for variable in equation.outvars:
                _check_type(variable.aval)
                _check_size(max((node.seeds for node in inputs), default=0), variable.aval.size)
            nodes.update(zip(equation.outvars, self.apply(equation, inputs), strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def apply(self, equation: Any, inputs: Sequence[Node]) -> list[Node]:
        """Applies an equation, calls and loops included."""
        name, params = equation.primitive.name, equation.params
        if name in _CALLS:
            # The function itself, never its derivative rule.
            return self.call(params.get("jaxpr", params.get("call_jaxpr")), inputs)
        if name == "scan":
            return self.scan(params, inputs)
        if name == "cond":
            results = [self.call(branch, inputs[1:]) for branch in params["branches"]]
            groups = zip(*results, strict=True)
            return [self.rule(_select, [inputs[0], *cases])[0] for cases in groups]
        if name == "while":
            raise UsageError(
                "The function has a while loop, whose length may depend on the state; use "
                "jax.lax.scan, or jax.lax.fori_loop with fixed bounds."
            )
        return self.rule(lambda nodes: _ruled(equation, nodes), inputs)

    def rule(
        self, rule: Callable[[Sequence[Node]], list[Node]], inputs: Sequence[Node]
    ) -> list[Node]:
        """Applies a rule on the region and at its centre, which tightens the values."""
        results = rule(inputs)
        if all(node.center is None for node in inputs):
            return results
        centers = rule([node if node.center is None else node.center for node in inputs])
        return [
            result if any(result is node for node in inputs) else self.region.tightened(*pair)
            for result, *pair in zip(results, results, centers, strict=True)
        ]

    def call(self, program: Any, inputs: Sequence[Node]) -> list[Node]:
        """Evaluates a jaxpr, with its weights or without."""
        if hasattr(program, "consts"):
            return self.run(program.jaxpr, _constants(program), inputs)
        return self.run(program, [], inputs)

    def scan(self, params: Any, inputs: Sequence[Node]) -> list[Node]:
        """A loop of fixed length, step by step."""
        length, fixed, carried = params["length"], params["num_consts"], params["num_carry"]
        if length > _LONGEST_SCAN:
            raise UsageError(
                f"The function has a loop of {length} steps; use at most {_LONGEST_SCAN} of them."
            )
        weights, carry = list(inputs[:fixed]), list(inputs[fixed : fixed + carried])
        sequences, rows = inputs[fixed + carried :], [[] for _ in range(length)]
        for step in reversed(range(length)) if params["reverse"] else range(length):
            now = [self.moved([x], numbered([x.shape])[0][step]) for x in sequences]
            results = self.call(params["jaxpr"], [*weights, *carry, *now])
            carry, rows[step] = results[:carried], results[carried:]
        stacked = []
        for nodes in zip(*rows, strict=True):
            stacked.append(self.moved(nodes, numbered([(length, *nodes[0].shape)])[0]))
        return [*carry, *stacked]

    def moved(self, inputs: Sequence[Node], index: np.ndarray | np.integer) -> Node:
        """Entries of the inputs by their number."""
        return self.rule(lambda nodes: [take(nodes, index)], inputs)[0]


def _select(nodes: Sequence[Node]) -> list[Node]:
    return [elementwise("select_n", nodes, {})]


def _check_size(seeds: int, size: int) -> None:
    if seeds * size > _MOST_SLOPES:
        raise UsageError(
            f"The slopes of {size} numbers in {seeds} entries of the state do not fit into memory; "
            "use a smaller module or state."
        )


def _ruled(equation: Any, nodes: Sequence[Node]) -> list[Node]:
    """Applies the rule of one equation of a jaxpr; calls and loops are not handled here.

    Args:
        equation: the equation.
        nodes: its arguments.

    Returns:
        Its results.

    Raises:
        UsageError: there is no rule for the primitive, or none for these arguments.
    """
    name, params = equation.primitive.name, equation.params
    if name in _SAME:
        return list(nodes)
    floats = [np.dtype(v.aval.dtype).kind == "f" for v in equation.outvars]
    if name == "iota" or (not any(floats) and all(n.known and n.kind != "f" for n in nodes)):
        return _evaluated(equation, nodes)
    if name in (*FUNCTIONS, *MIXES) and name not in _LOGICAL:
        if any(node.kind != "f" for node in nodes):
            raise UsageError(
                f"'{name}' is applied to integers or truth values that depend on the state; use "
                "floating point numbers, and jax.numpy.where for decisions."
            )
    if name in _SEVERAL:
        return [take(nodes, i) for i in _SEVERAL[name](numbered([n.shape for n in nodes]), params)]
    if name in MOVES:
        return [
            _named(take(nodes, MOVES[name](numbered([nodes[0].shape])[0], params)), equation, nodes)
        ]
    if name in PLACED:
        return [place(equation, nodes)]
    logits = softmax_logits(*nodes) if name == "div" else None
    if name in ELEMENTWISE and logits is None:
        return [elementwise(name, nodes, params)]
    if name in MIXES or logits is not None:
        result = MIXES[name](nodes, params) if logits is None else softmax(*logits)
        if any(node.undefined is not None for node in nodes):
            result = dataclasses.replace(result, undefined=np.ones(result.shape, bool))
        return [_named(result, equation, nodes)]
    known = sorted({*ELEMENTWISE, *MIXES, *MOVES, *PLACED, *_SAME, *_OTHERS})
    raise UsageError(
        f"The function uses the primitive '{name}', for which there is no interval rule; compute "
        "what does not depend on the state beforehand, and use those that have one "
        f"({', '.join(known)})."
    )


def _named(node: Node, equation: Any, nodes: Sequence[Node]) -> Node:
    """The node with its origin, and without a mask that holds nowhere."""
    return dataclasses.replace(
        node,
        undefined=union(node.shape, node.undefined),
        seeds=node.seeds if node.slope is None else node.slope.shape[0],
        name=equation.primitive.name,
        inputs=tuple(nodes),
        params=equation.params,
    )


def _evaluated(equation: Any, nodes: Sequence[Node]) -> list[Node]:
    """Exact arithmetic of integers and truth values that do not change, done by JAX itself."""
    arguments = [
        jnp.asarray(node.value.low, variable.aval.dtype)
        for node, variable in zip(nodes, equation.invars, strict=True)
    ]
    results = equation.primitive.bind(*arguments, **equation.params)
    if not equation.primitive.multiple_results:
        results = [results]
    return [constant(np.asarray(result)) for result in results]
