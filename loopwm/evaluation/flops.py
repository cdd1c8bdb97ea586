"""FLOPs of an imagined transition, counted without running it."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from loopwm.errors import RunFailure, UsageError
from loopwm.models import AbstractWorldModel
from loopwm.nn import resolve

# Primitives that stand for the program they hold: calls, custom derivatives, checkpoints.
_CALLS = ("jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call", "checkpoint")


def unrolled(function: Callable[..., Any], *arguments: Any) -> tuple[Callable[..., Any], list[Any]]:
    """The function with its loops of known length written out.

    A counter that looks at a program sees the body of a loop once, however often it is run; of
    this program it sees every pass.

    Args:
        function: what to count; trees of arrays in and out.
        arguments: its arguments, arrays or their shapes (`jax.ShapeDtypeStruct`).

    Returns:
        A function from the arrays of the arguments, one by one, to a list of arrays; and the
        arrays or shapes to call it with.

    Raises:
        UsageError: it loops until a condition is met, so that its cost depends on its values.
    """
    dynamic, static = eqx.partition(arguments, _is_array_or_shape)
    leaves, structure = jax.tree.flatten(dynamic)

    def flat(*arrays: jax.Array) -> list[Any]:
        found = function(*eqx.combine(jax.tree.unflatten(structure, arrays), static))
        return jax.tree.leaves(eqx.filter(found, eqx.is_array))

    program = jax.make_jaxpr(flat)(*leaves)
    return lambda *arrays: _run(program.jaxpr, program.consts, arrays), leaves


def flops_of_transition(model: AbstractWorldModel, action: int, *, outcome: bool = False) -> float:
    """FLOPs of one imagined transition at the model's own depth, as XLA counts them.

    The program is compiled with its loops written out, and not run. Constrained weights count as
    resolved, as planners have them. A multiplication and an addition are one each; what XLA files
    under transcendentals (exp, tanh, …) is not in the number.

    Args:
        model: the world model, or one with shapes in place of arrays (see `shapes_of`).
        action: size of an encoded action u.
        outcome: count the outcome head too, which a planner asks once a transition.

    Returns:
        The number, for the backend that JAX runs on.

    Raises:
        UsageError: the model loops until a condition is met, so that no number belongs to it.
        RunFailure: the backend counts nothing.
    """

    def imagine(model: AbstractWorldModel, z: jax.Array, u: jax.Array) -> object:
        following = model.transition(z, u).value
        return (following, model.outcome(z, u, following)) if outcome else following

    shapes = eqx.filter_eval_shape(resolve, model)
    vectors = (jax.ShapeDtypeStruct((size,), jnp.float32) for size in (model.latent, action))
    flat, leaves = unrolled(imagine, shapes, *vectors)
    counted = jax.jit(flat).lower(*leaves).compile().cost_analysis()
    if not counted or "flops" not in counted:
        raise RunFailure(
            f"XLA counts no FLOPs on {jax.default_backend()}; count them on another backend."
        )
    return float(counted["flops"])


def _is_array_or_shape(leaf: object) -> bool:
    return eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)


def _run(jaxpr: Jaxpr, constants: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    """Evaluates a program, its scans one pass after another."""
    known: dict[Any, Any] = {}

    def value(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else known[atom]

    known.update(zip((*jaxpr.constvars, *jaxpr.invars), (*constants, *arguments), strict=True))
    for equation in jaxpr.eqns:
        name, inputs = equation.primitive.name, [value(atom) for atom in equation.invars]
        if name == "while":
            raise UsageError(
                "A loop that ends on a condition has no cost of its own; give a fixed number of "
                "loops."
            )
        if name == "scan":
            results = _scan(equation.params, inputs)
        elif name in _CALLS:
            results = _call(equation.params, inputs)
        else:
            results = equation.primitive.bind(*inputs, **equation.params)
            results = results if equation.primitive.multiple_results else [results]
        known.update(zip(equation.outvars, results, strict=True))
    return [value(atom) for atom in jaxpr.outvars]


def _call(params: dict[str, Any], inputs: list[Any]) -> list[Any]:
    inner = params["jaxpr"] if "jaxpr" in params else params["call_jaxpr"]
    if isinstance(inner, ClosedJaxpr):
        return _run(inner.jaxpr, inner.consts, inputs)
    return _run(inner, (), inputs)


def _scan(params: dict[str, Any], inputs: list[Any]) -> list[Any]:
    body, fixed, carried = params["jaxpr"], params["num_consts"], params["num_carry"]
    constants, carry = inputs[:fixed], inputs[fixed : fixed + carried]
    stacked, rows = inputs[fixed + carried :], []
    order = range(params["length"])
    for i in reversed(order) if params["reverse"] else order:
        found = _run(body.jaxpr, body.consts, [*constants, *carry, *(x[i] for x in stacked)])
        carry = found[:carried]
        rows.append(found[carried:])
    rows = rows[::-1] if params["reverse"] else rows
    return [*carry, *(jnp.stack(column) for column in zip(*rows, strict=True))]
