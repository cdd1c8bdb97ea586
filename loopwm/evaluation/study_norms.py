"""The norm that a study measures an update in, and norms of Jacobians in it."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from loopwm.errors import UsageError
from loopwm.stability import Certificate, Level, norms, weighted
from loopwm.stability.norms import Norm
from loopwm.stability.spectra import singular_values
from loopwm.stability.trajectories import VectorMap, differentiating

# Rows of a Jacobian computed at once for its ∞-norm.
_ROWS = 64
# Directions that the search for a Jacobian's norm over tokens starts from, and its steps.
_DIRECTIONS, _STEPS = 8, 20


class StudyNorm(NamedTuple):
    """The norm that an update is measured in."""

    name: Norm
    function: Callable[..., Array]
    """From a state to a scalar, in the state's type."""
    weights: np.ndarray | None
    """p of the P-norm, of the state's shape."""


def study_norm(
    update: Callable[..., Array],
    state: Float[Array, "*state"] | Float[np.ndarray, "*state"],
    certificate: Certificate | None,
) -> StudyNorm:
    """The norm of the certificate for an update; the 2-norm where no whole update is certified.

    The weights of the P-norm come from the update's attribute `retention` where it has one (see
    `loopwm.stability.weighted`), and else from its method `norm`.

    Args:
        update: the map h → h⁺.
        state: a state h, for its shape.
        certificate: what is proven of the update.

    Returns:
        The norm.

    Raises:
        UsageError: the certificate is stated in the P-norm, whose weights the update does not know.
    """
    if certificate is None or certificate.level is Level.LINEAR or certificate.norm is Norm.TWO:
        return StudyNorm(Norm.TWO, norms.two, None)
    if certificate.norm is Norm.INFINITY:
        return StudyNorm(Norm.INFINITY, norms.infinity, None)
    if certificate.norm is Norm.TOKENS:
        return StudyNorm(Norm.TOKENS, norms.tokens, None)
    p = _weights(update, np.shape(state), float(certificate.gamma or 0.0))
    return StudyNorm(Norm.P, functools.partial(_weighted_norm, p), p)


def _weights(
    update: Callable[..., Array], shape: tuple[int, ...], gamma: float
) -> Float[np.ndarray, "*state"]:
    retention, own = getattr(update, "retention", None), getattr(update, "norm", None)
    with jax.enable_x64(True):
        if isinstance(retention, jax.Array) and retention.shape == shape:
            wide = jnp.asarray(np.asarray(retention, np.float64).reshape(-1))
            return np.asarray(weighted.weights(wide, gamma)).reshape(shape)
        if callable(own):
            units = jnp.eye(int(np.prod(shape))).reshape(-1, *shape)
            return (np.asarray(jax.vmap(own)(units)) ** 2).reshape(shape)
    raise UsageError(
        f"{type(update).__name__} is certified in the P-norm, which cannot be measured without its "
        "retention; give it an attribute retention of the state's shape, or a method norm(x) that "
        "returns ‖x‖_P."
    )


def _weighted_norm(p: np.ndarray, x: Array) -> Array:
    """‖x‖_P in the type of x, over all entries."""
    return norms.two(jnp.asarray(np.sqrt(p), x.dtype) * x)


def jacobian_norm(
    mapped: VectorMap, h: Float[np.ndarray, " dimension"], norm: StudyNorm, *, key: PRNGKeyArray
) -> float:
    """Norm of the Jacobian at a state that the study's norm induces.

    Exact up to rounding in the 2-norm, the P-norm and the ∞-norm; found by a search, and so a
    lower bound, in the norm of the worst token.

    Args:
        mapped: the update, as a map of vectors.
        h: the state.
        norm: the norm on both sides.
        key: PRNG key.

    Returns:
        The norm, in float64.
    """
    if norm.name is Norm.INFINITY:
        with differentiating(), jax.enable_x64(True):
            return float(_largest_row_sum(mapped, jnp.asarray(h)))
    if norm.name is Norm.TOKENS:
        with differentiating(), jax.enable_x64(True):
            start = jax.random.normal(key, (_DIRECTIONS, *mapped.shape), jnp.float64)
            return float(_largest_token(mapped, jnp.asarray(h), start))
    weights = None if norm.weights is None else norm.weights.reshape(-1)
    return float(singular_values(mapped, h, weights=weights, key=key).largest)


@eqx.filter_jit
def _largest_row_sum(mapped: VectorMap, h: Array) -> Array:
    backward = jax.vjp(mapped, h)[1]

    def row_sum(row):
        return jnp.sum(jnp.abs(backward(jax.nn.one_hot(row, h.size, dtype=h.dtype))[0]))

    return jnp.max(jax.lax.map(row_sum, jnp.arange(h.size), batch_size=min(_ROWS, h.size)))


@eqx.filter_jit
def _largest_token(mapped: VectorMap, h: Array, directions: Array) -> Array:
    """max ‖(Jv)_n‖₂ over n and over v with ‖v_m‖₂ ≤ 1, by the power method for mixed norms.

    Source: Boyd 1974, "The power method for ℓp norms", Linear Algebra and its Applications 9.
    """
    _, tangent = jax.linearize(mapped, h)
    backward = jax.linear_transpose(tangent, h)
    shape = mapped.shape

    def unit(v):
        size = jnp.linalg.norm(v, axis=-1, keepdims=True)
        return v / jnp.where(size == 0.0, 1.0, size)

    def climb(v, _):
        y = tangent(unit(v).reshape(-1)).reshape(shape)
        sizes = jnp.linalg.norm(y, axis=-1, keepdims=True)
        worst = jnp.where(sizes == jnp.max(sizes), unit(y), 0.0)
        return backward(worst.reshape(-1))[0].reshape(shape), jnp.max(sizes)

    return jnp.max(jax.vmap(lambda v: jax.lax.scan(climb, v, None, _STEPS)[1])(directions))
