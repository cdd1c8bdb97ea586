"""What would void a certificate, found before one is issued."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr, jaxprs_in_params
from jaxtyping import Array

from loopwm.errors import UsageError, as_clause

VOIDED_BY = (
    "weights that are changed after it was issued",
    "dropout or other randomness inside the loop",
    "a loop-index embedding, or weights of their own for each loop",
    "arithmetic of lower precision than that of the weights it was issued for",
)
"""What a certificate of this package does not survive."""

_STATEFUL = (eqx.nn.StateIndex, eqx.nn.State)


def check_module(module: object) -> str:
    """Refuses a module whose update is not one fixed, finite map in float32 or better.

    Args:
        module: a module or any other tree.

    Returns:
        The types of its weights, joined by commas.

    Raises:
        UsageError: it has active dropout, state, weights that are NaN, infinite, integer, complex
            or of lower precision than float32.
    """
    _check_nodes(module)
    for leaf in jax.tree.leaves(module):
        if isinstance(leaf, complex) or eqx.is_array(leaf):
            check_real(leaf, _name(module))
    names = set()
    for leaf in jax.tree.leaves(eqx.filter(module, eqx.is_array)):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            if jnp.issubdtype(leaf.dtype, jnp.integer):
                raise UsageError(
                    f"{_name(module)} has {leaf.dtype} weights, which no norm is defined for; cast "
                    "them to float32."
                )
            continue
        names.add(str(leaf.dtype))
        if leaf.dtype.itemsize < 4:
            raise UsageError(
                f"{_name(module)} has {leaf.dtype} weights, in which rounding can hide an error as "
                "large as the state; cast it to float32 to certify it."
            )
        if not np.all(np.isfinite(np.asarray(leaf))):
            raise UsageError(
                f"{_name(module)} has NaN or infinite weights, so nothing can be certified; load "
                "an earlier checkpoint."
            )
    return ", ".join(sorted(names)) or "none"


def check_real(weight: Any, owner: str) -> None:
    """Refuses complex weights, which NumPy would cut down to their real parts.

    Args:
        weight: an array or a number.
        owner: whose it is, as the sentence begins.

    Raises:
        UsageError: it is complex.
    """
    if np.iscomplexobj(weight):
        raise UsageError(
            f"{owner} has complex weights, which no bound here is for; use real weights, such as "
            "their real and imaginary parts."
        )


def check_inherited(module: object, claim: str, subject: str = "__call__") -> None:
    """Refuses a claim that a class inherited while it replaced what the claim is about.

    A base class may make a claim of what its subclasses have yet to define, but once only.

    Args:
        module: what makes the claim.
        claim: name of the method it makes it with, such as lipschitz.
        subject: name of the method that the claim is about.

    Raises:
        UsageError: the subject was overridden in a class before the one that makes the claim.
    """
    kinds = type(module).__mro__
    defined = [kind for kind in kinds if subject in vars(kind)]
    concrete = [k for k in defined if not getattr(vars(k)[subject], "__isabstractmethod__", False)]
    claimant = next((kind for kind in kinds if claim in vars(kind)), None)
    if claimant is None or len(concrete) < 2:
        return
    if kinds.index(concrete[0]) < kinds.index(claimant):
        raise UsageError(
            f"{_name(module)} inherits {claim}() from {claimant.__name__}, but "
            f"{concrete[0].__name__} has a {subject} of its own, which that says nothing about; "
            f"give {concrete[0].__name__} a {claim}() too."
        )


@contextlib.contextmanager
def tracing(what: str, shape: tuple[int, ...]) -> Iterator[None]:
    """Says in one sentence that a foreign callable could not be traced, whatever it raised.

    Args:
        what: the callable, as the sentence begins.
        shape: shape of the array it is traced for.

    Raises:
        UsageError: the block raised anything; its own `UsageError` is passed on.
    """
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(
            f"{what} cannot be traced for an array of shape {shape} ({type(error).__name__}: "
            f"{as_clause(error, 160)}); pass a function of one array that JAX can trace."
        ) from error


def _check_nodes(module: object) -> None:
    """Refuses dropout that is switched on, and layers that carry state from call to call."""

    def is_special(node: object) -> bool:
        return isinstance(node, (eqx.nn.Dropout, *_STATEFUL))

    for node in jax.tree.leaves(module, is_leaf=is_special):
        if isinstance(node, eqx.nn.Dropout) and not node.inference and node.p != 0:
            raise UsageError(
                f"{_name(module)} has dropout, which makes each loop another map with no common "
                "fixed point; use equinox.nn.inference_mode to switch it off."
            )
        if isinstance(node, _STATEFUL):
            raise UsageError(
                f"{_name(module)} keeps state between calls (such as BatchNorm or SpectralNorm), "
                "so each loop is another map; use a layer without state."
            )


def check_update(update: Callable[..., object], state: Array | np.ndarray) -> None:
    """Refuses a callable that is no map from states of one shape to themselves.

    Args:
        update: the map h → h⁺.
        state: a state h; only its shape and type are used.

    Raises:
        UsageError: the state is not an array of float32 or float64, or the map changes shape or
            type, returns something else than one array, draws random numbers, or fails.
    """
    state = jnp.asarray(state)
    if state.dtype not in (jnp.float32, jnp.float64):
        raise UsageError(f"The state has type {state.dtype}; pass float32 or float64.")
    with tracing("The update", state.shape):
        closed, shape = eqx.filter_make_jaxpr(update)(state)[:2]
    if not isinstance(shape, jax.ShapeDtypeStruct):
        raise UsageError(
            "The update returns something else than one array; pass a function from a state to the "
            "next state."
        )
    if shape.shape != state.shape or shape.dtype != state.dtype:
        raise UsageError(
            f"The update maps shape {state.shape}, {state.dtype} to shape {shape.shape}, "
            f"{shape.dtype}, so it cannot be repeated; pass a map that keeps both."
        )
    random = sorted(n for n in primitives(closed.jaxpr) if n.startswith(("random_", "rng_")))
    if random:
        raise UsageError(
            f"The update draws random numbers ({', '.join(random)}), so each loop is another map; "
            "switch dropout off, or pass it without noise."
        )


def primitives(jaxpr: Jaxpr) -> set[str]:
    """Names of all primitives of a jaxpr, those of nested ones included."""
    found = {equation.primitive.name for equation in jaxpr.eqns}
    for equation in jaxpr.eqns:
        for inner in jaxprs_in_params(equation.params):
            found |= primitives(inner)
    return found


def _name(module: object) -> str:
    return type(module).__name__
