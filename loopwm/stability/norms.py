"""The norms that statements are made in."""

import enum

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Norm(enum.StrEnum):
    """The norm a statement is made in."""

    P = "P"
    """Weighted 2-norm ‖x‖_P² = Σ p x² with p from the retention (see `stability.weighted`)."""
    TWO = "2"
    """Plain Euclidean norm of all entries."""
    INFINITY = "inf"
    """Largest absolute entry."""
    TOKENS = "2,inf"
    """Largest Euclidean norm of a token: max_n ‖x_n‖₂ over the leading axes."""


def two(x: Float[Array, "*state"]) -> Float[Array, ""]:
    """‖x‖₂ over all entries; its gradient at 0 is taken as 0."""
    squared = jnp.sum(x * x)
    nonzero = squared != 0  # NaN counts as nonzero and comes out as NaN
    return jnp.where(nonzero, jnp.sqrt(jnp.where(nonzero, squared, 1.0)), 0.0)


def infinity(x: Float[Array, "*state"]) -> Float[Array, ""]:
    """‖x‖_∞, the largest absolute entry; its gradient is that of the first largest."""
    return _largest(jnp.abs(x))


def tokens(x: Float[Array, "*tokens width"]) -> Float[Array, ""]:
    """max_n ‖x_n‖₂ over tokens n of shape (width,); its gradient at 0 is taken as 0."""
    squared = _largest(jnp.sum(x * x, axis=-1))
    nonzero = squared != 0
    return jnp.where(nonzero, jnp.sqrt(jnp.where(nonzero, squared, 1.0)), 0.0)


@jax.custom_jvp
def _largest(x: Float[Array, "*shape"]) -> Float[Array, ""]:
    """The largest entry (NaN if there is one); its derivative is that of the first largest.

    JAX's derivative of a maximum compares the entries with the result and divides by how many are
    equal. A compiler that computes an entry twice, once with fused multiply-add, finds none, and
    the gradient is 0/0. An index has no such comparison, but takes several times as long to find,
    so it is looked for only where a derivative is asked for.
    """
    return jnp.max(x)


@_largest.defjvp
def _largest_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    flat, change = primals[0].reshape(-1), tangents[0].reshape(-1)
    index = jnp.argmax(flat)
    return flat[index], change[index]
