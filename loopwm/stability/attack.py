"""Adversarial search for pairs of states that a contraction claim would have to survive."""

import dataclasses
import functools
from collections.abc import Callable
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from loopwm.choices import member
from loopwm.errors import UsageError
from loopwm.stability.bounds import Level
from loopwm.stability.norms import Norm

Tree = TypeVar("Tree")


@dataclasses.dataclass(frozen=True)
class AttackResult:
    """The worst pair found; its ratio is a lower bound of the true Lipschitz constant."""

    ratio: float
    """Largest ‖F(x) − F(y)‖ / ‖x − y‖ found, computed in float64; NaN if F gave NaN."""
    ratios: Float[Array, " starts"]
    """The best ratio of every start, shape (starts,)."""
    level: Level = Level.EMPIRICAL
    """Always `empirical`."""


def attack(
    update: Callable[[Float[Array, "*state"]], Float[Array, "*state"]],
    norm: Callable[[Float[Array, "*state"]], Float[Array, ""]],
    shape: int | tuple[int, ...],
    *,
    key: PRNGKeyArray,
    starts: int = 64,
    steps: int = 200,
    scales: tuple[float, ...] = (0.01, 1.0, 10.0, 100.0),
    step_size: float = 0.05,
    geometry: Norm = Norm.TWO,
) -> AttackResult:
    r"""Maximises $\|F(x)-F(y)\| / \|x-y\|$ over pairs (x, y) by gradient ascent.

    Pairs are written as a midpoint and a difference; midpoints start at the given scales, far
    states included, and differences at a tenth of them. Level of the result: `empirical`.

    Args:
        update: the map F on states of that shape, float32 or float64.
        norm: the norm in which the claim is made, from a state to a scalar. Where its gradient or
            that of F is not finite, as that of jnp.linalg.norm at 0, the pair is not moved along
            it; prefer the norms of `loopwm.stability.norms`.
        shape: shape of the state; a number for a vector.
        key: PRNG key.
        starts: number of pairs searched in parallel.
        steps: ascent steps along the steepest direction, shrinking to a tenth.
        scales: standard deviations of the starting midpoints, used in turn.
        step_size: length of the first step, relative to the pair's size.
        geometry: norm in which a step is steepest: along the gradient (2), or along its signs
            (∞), which suits a claim in the ∞-norm, whose gradient has few entries.

    Returns:
        The largest ratio and each start's.

    Raises:
        UsageError: there is no pair to search from, or the state has no entry.
    """
    geometry = member(Norm, geometry, "geometry")
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    size = int(np.prod(shape))
    if starts < 1 or steps < 1 or size < 1 or not scales:
        raise UsageError(
            f"starts is {starts}, steps {steps}, shape {shape} and scales {scales}; give at least "
            "one of each."
        )
    key_mid, key_diff = jax.random.split(key)
    scale = jnp.resize(jnp.asarray(scales), (starts,))[:, None]
    middle = jax.random.normal(key_mid, (starts, size))
    difference = 0.1 * jax.random.normal(key_diff, (starts, size))
    rescaled = _signs if geometry is Norm.INFINITY else _gradient

    def ratio(pair: tuple[Array, Array], spread: Array, update=update, norm=norm) -> Array:
        mid, diff = pair[0] * spread, pair[1] * spread
        ends = ((mid + 0.5 * diff).reshape(shape), (mid - 0.5 * diff).reshape(shape))
        moved = norm(update(ends[0]) - update(ends[1]))
        return moved / jnp.maximum(norm(diff.reshape(shape)), 1e-6 * spread[0])

    def climb(carry, progress):
        pair, best_pair, best = carry
        values, gradient = jax.vmap(jax.value_and_grad(ratio))(pair, scale)
        better = (values > best) | jnp.isnan(values)
        best_pair = jax.tree.map(lambda x, b: jnp.where(better[:, None], x, b), pair, best_pair)
        # No direction to climb in says nothing about F; its values decide.
        gradient = jax.tree.map(lambda g: jnp.where(jnp.isfinite(g), g, 0.0), gradient)
        length = step_size * 10.0**-progress
        pair = jax.tree.map(lambda x, g: x + length * rescaled(g, x), pair, gradient)
        return (pair, best_pair, jnp.where(better, values, best)), None

    pair = (middle, difference)
    initial = (pair, pair, jnp.zeros(starts))
    progress = jnp.linspace(0.0, 1.0, steps)
    (_, found, _), _ = jax.jit(lambda c: jax.lax.scan(climb, c, progress))(initial)
    # The difference of two float32 states far from the origin is mostly rounding: judge the
    # pairs in float64, so that the ratio is the map's own.
    found, scale = jax.tree.map(np.asarray, (found, scale))
    with jax.enable_x64(True):
        judged = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), (found, scale))
        exact = {"update": _in_float64(update), "norm": _in_float64(norm)}
        ratios = np.asarray(jax.jit(jax.vmap(functools.partial(ratio, **exact)))(*judged))
    return AttackResult(ratio=float(np.max(ratios)), ratios=jnp.asarray(ratios, jnp.float32))


def _in_float64(function: Tree) -> Tree:
    """A module with its weights in float64; any other function as it is."""
    return jax.tree.map(
        lambda x: jnp.asarray(x, jnp.float64) if eqx.is_inexact_array(x) else x, function
    )


def _gradient(
    gradient: Float[Array, "starts size"], like: Float[Array, "starts size"]
) -> Float[Array, "starts size"]:
    """Each row of the gradient brought to the length of the same row of `like`."""
    length = jnp.linalg.norm(gradient, axis=-1, keepdims=True)
    return gradient / jnp.maximum(length, 1e-20) * jnp.linalg.norm(like, axis=-1, keepdims=True)


def _signs(
    gradient: Float[Array, "starts size"], like: Float[Array, "starts size"]
) -> Float[Array, "starts size"]:
    """Each row of the gradient's signs, times the largest entry of the same row of `like`."""
    return jnp.sign(gradient) * jnp.max(jnp.abs(like), axis=-1, keepdims=True)
