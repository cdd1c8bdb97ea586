"""Adversarial search for pairs of states that a contraction claim would have to survive."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray


@dataclasses.dataclass(frozen=True)
class AttackResult:
    """The worst pair found; its ratio is a lower bound of the true Lipschitz constant."""

    ratio: float
    """Largest ‖F(x) − F(y)‖ / ‖x − y‖ found, computed in float64; NaN if F gave NaN."""
    ratios: Float[Array, " starts"]
    """The best ratio of every start, shape (starts,)."""


def attack(
    update: Callable[[Float[Array, " width"]], Float[Array, " width"]],
    norm: Callable[[Float[Array, " width"]], Float[Array, ""]],
    width: int,
    *,
    key: PRNGKeyArray,
    starts: int = 64,
    steps: int = 200,
    scales: tuple[float, ...] = (0.01, 1.0, 10.0, 100.0),
    step_size: float = 0.05,
) -> AttackResult:
    r"""Maximises $\|F(x)-F(y)\| / \|x-y\|$ over pairs (x, y) by gradient ascent.

    Pairs are written as a midpoint and a difference; midpoints start at the given scales, far
    states included, and differences at a tenth of them. Level of the result: `empirical`.

    Args:
        update: the map F on states of shape (width,), float32 or float64.
        norm: the norm in which the claim is made, from (width,) to a scalar.
        width: dimension of the state.
        key: PRNG key.
        starts: number of pairs searched in parallel.
        steps: ascent steps along the normalised gradient, shrinking to a tenth.
        scales: standard deviations of the starting midpoints, used in turn.
        step_size: length of the first step, relative to the pair's size.

    Returns:
        The largest ratio and each start's.
    """
    key_mid, key_diff = jax.random.split(key)
    scale = jnp.resize(jnp.asarray(scales), (starts,))[:, None]
    middle = jax.random.normal(key_mid, (starts, width))
    difference = 0.1 * jax.random.normal(key_diff, (starts, width))

    def ratio(pair: tuple[Array, Array], size: Array) -> Array:
        mid, diff = pair[0] * size, pair[1] * size
        moved = update(mid + 0.5 * diff) - update(mid - 0.5 * diff)
        return norm(moved) / jnp.maximum(norm(diff), 1e-6 * size[0])

    def climb(carry, progress):
        pair, best_pair, best = carry
        values, gradient = jax.vmap(jax.value_and_grad(ratio))(pair, scale)
        better = (values > best) | jnp.isnan(values)
        best_pair = jax.tree.map(lambda x, b: jnp.where(better[:, None], x, b), pair, best_pair)
        length = step_size * 10.0**-progress
        pair = jax.tree.map(lambda x, g: x + length * _rescaled(g, x), pair, gradient)
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
        ratios = np.asarray(jax.jit(jax.vmap(ratio))(*judged))
    return AttackResult(ratio=float(np.max(ratios)), ratios=jnp.asarray(ratios, jnp.float32))


def _rescaled(
    gradient: Float[Array, "starts width"], like: Float[Array, "starts width"]
) -> Float[Array, "starts width"]:
    """Each row of the gradient brought to the length of the same row of `like`."""
    length = jnp.linalg.norm(gradient, axis=-1, keepdims=True)
    return gradient / jnp.maximum(length, 1e-20) * jnp.linalg.norm(like, axis=-1, keepdims=True)
