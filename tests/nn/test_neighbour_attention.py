"""Attention over grid neighbours against its formula, with rounding and edges."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from loopwm.errors import UsageError
from loopwm.nn import NeighbourAttention

CELLS, INPUTS, CHANNELS, HEADS = (3, 4), 2, 4, 2


def _twin(layer: NeighbourAttention, weights: np.ndarray, h: np.ndarray) -> np.ndarray:
    """The layer in float64 by a walk over cells, from the weights that were injected."""
    result = np.zeros_like(h)
    width = h.shape[-1] // layer.heads
    steps = [(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)]
    for i, j in np.ndindex(*h.shape[:2]):
        for option, (di, dj) in enumerate(steps):
            a, b = i + di, j + dj
            if layer.periodic:
                a, b = a % h.shape[0], b % h.shape[1]
            elif not (0 <= a < h.shape[0] and 0 <= b < h.shape[1]):
                assert np.all(weights[option, i, j] == 0.0)
                continue
            for head in range(layer.heads):
                part = slice(head * width, (head + 1) * width)
                result[i, j, part] += weights[option, i, j, head] * h[a, b, part]
    return result


@pytest.mark.parametrize("periodic", [False, True])
def test_by_hand_with_rounding(periodic, rng):
    layer = NeighbourAttention(INPUTS, heads=HEADS, periodic=periodic, key=jax.random.key(0))
    layer = jax.tree.map(lambda x: 3.0 * x, layer)
    e = jnp.asarray(rng.normal(size=(*CELLS, INPUTS)), jnp.float32)
    weights = layer.inject(e)
    sums = np.asarray(weights, np.float64).sum(axis=0)
    assert 1 - 1e-4 <= sums.min() and sums.max() <= 1.0
    raw = np.asarray(e) @ np.asarray(layer.logits).T + np.asarray(layer.bias)
    raw = raw[1, 1].reshape(5, HEADS)  # a cell with all of its neighbours
    expected = np.exp(raw) / np.exp(raw).sum(axis=0)
    np.testing.assert_allclose(weights[:, 1, 1], expected, rtol=1e-4)
    for scale in (1e-3, 1.0, 1e5):
        h = jnp.asarray(scale * rng.normal(size=(*CELLS, CHANNELS)), jnp.float32)
        twin = _twin(layer, np.asarray(weights, np.float64), np.asarray(h, np.float64))
        error = np.max(np.abs(np.asarray(layer(h, weights), np.float64) - twin))
        assert error <= float(layer.rounding(h, weights))


def test_a_signal_goes_one_way_at_nearly_full_strength():
    # The input says "from the left": what stands there moves right and nowhere else.
    layer = NeighbourAttention(1, heads=1, key=jax.random.key(0))
    logits = jnp.zeros((5, 1)).at[3].set(40.0).at[0].set(20.0)  # at the edge, stay
    layer = eqx.tree_at(lambda x: x.logits, layer, logits)
    h = jnp.zeros((3, 6, 1)).at[1, 1].set(1.0)
    weights = layer.inject(jnp.ones((3, 6, 1)))
    for _ in range(3):
        h = layer(h, weights)
    expected = np.zeros((3, 6))
    expected[1, 4] = 1.0
    np.testing.assert_allclose(h[..., 0], expected, atol=1e-4)


def test_gradients_are_finite_at_edges(rng):
    layer = NeighbourAttention(INPUTS, heads=HEADS, key=jax.random.key(0))
    e = jnp.asarray(rng.normal(size=(*CELLS, INPUTS)), jnp.float32)

    @eqx.filter_grad
    def gradient(layer):
        return jnp.sum(layer(jnp.ones((*CELLS, CHANNELS)), layer.inject(e)) ** 2)

    for leaf in jax.tree.leaves(gradient(layer)):
        assert np.all(np.isfinite(leaf))


def test_bad_sizes_are_refused(assert_helpful):
    layer = NeighbourAttention(INPUTS, heads=HEADS, key=jax.random.key(0))
    for call in (
        lambda: NeighbourAttention(0, key=jax.random.key(0)),
        lambda: layer.inject(jnp.ones((3, INPUTS))),
        lambda: layer(jnp.ones((*CELLS, 3)), layer.inject(jnp.ones((*CELLS, INPUTS)))),
    ):
        with pytest.raises(UsageError) as raised:
            call()
        assert_helpful(raised)
