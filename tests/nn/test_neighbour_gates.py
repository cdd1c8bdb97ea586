"""The gated maximum over grid neighbours against its formula, with rounding and edges."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from loopwm.errors import UsageError
from loopwm.nn import GatedNeighbourMaximum

CELLS, INPUTS, CHANNELS, HEADS = (3, 4), 2, 4, 2


def _twin(layer: GatedNeighbourMaximum, gates: np.ndarray, h: np.ndarray) -> np.ndarray:
    """The layer in float64 by a walk over cells, from the gates that were injected."""
    result = h.copy()
    width = h.shape[-1] // layer.heads
    for i, j in np.ndindex(*h.shape[:2]):
        for side, (di, dj) in enumerate([(-1, 0), (1, 0), (0, -1), (0, 1)]):
            a, b = i + di, j + dj
            if layer.periodic:
                a, b = a % h.shape[0], b % h.shape[1]
            elif not (0 <= a < h.shape[0] and 0 <= b < h.shape[1]):
                assert np.all(gates[side, i, j] == 0.0)
                continue
            for head in range(layer.heads):
                part, gate = slice(head * width, (head + 1) * width), gates[side, i, j, head]
                let_in = (1.0 - gate) * h[i, j, part] + gate * h[a, b, part]
                result[i, j, part] = np.maximum(result[i, j, part], let_in)
    return result


@pytest.mark.parametrize("periodic", [False, True])
def test_by_hand_with_rounding(periodic, rng):
    layer = GatedNeighbourMaximum(INPUTS, heads=HEADS, periodic=periodic, key=jax.random.key(0))
    layer = eqx.tree_at(lambda x: x.bias, layer, 0.5 * layer.bias)
    e = jnp.asarray(rng.normal(size=(*CELLS, INPUTS)), jnp.float32)
    gates = layer.inject(e)
    assert 0.0 <= float(gates.min()) and float(gates.max()) <= 1.0
    raw = np.asarray(e) @ np.asarray(layer.weight).T + np.asarray(layer.bias)
    np.testing.assert_allclose(gates[:, 1, 1], np.clip(raw[1, 1].reshape(4, HEADS), 0, 1), 1e-5)
    for scale in (1e-3, 1.0, 1e5):
        h = jnp.asarray(scale * rng.normal(size=(*CELLS, CHANNELS)), jnp.float32)
        twin = _twin(layer, np.asarray(gates, np.float64), np.asarray(h, np.float64))
        error = np.max(np.abs(np.asarray(layer(h, gates), np.float64) - twin))
        assert error <= float(layer.rounding(h, gates))


def test_a_signal_goes_one_way_and_stops_at_a_closed_gate():
    # Open from the left wherever e is 1; shut at column 4, for any number of loops.
    layer = GatedNeighbourMaximum(1, key=jax.random.key(0))
    layer = eqx.tree_at(
        lambda x: (x.weight, x.bias),
        layer,
        (jnp.zeros((4, 1)).at[2].set(1.0), jnp.zeros(4)),
    )
    e = jnp.ones((3, 6, 1)).at[:, 4].set(0.0)
    h, gates = jnp.zeros((3, 6, 1)).at[1, 1].set(1.0), layer.inject(e)
    for _ in range(50):
        h = layer(h, gates)
    expected = np.zeros((3, 6))
    expected[1, 1:4] = 1.0
    np.testing.assert_array_equal(h[..., 0], expected)


def test_a_shut_gate_can_learn_to_open():
    layer = GatedNeighbourMaximum(1, key=jax.random.key(0))
    layer = eqx.tree_at(lambda x: x.bias, layer, jnp.full(4, -3.0))

    def passed(layer):
        return jnp.sum(layer(jnp.arange(6.0).reshape(2, 3, 1), layer.inject(jnp.zeros((2, 3, 1)))))

    assert np.all(eqx.filter_grad(passed)(layer).bias[jnp.array([1, 3])] > 0.0)


def test_bad_sizes_are_refused(assert_helpful):
    layer = GatedNeighbourMaximum(INPUTS, heads=HEADS, key=jax.random.key(0))
    for call in (
        lambda: GatedNeighbourMaximum(0, key=jax.random.key(0)),
        lambda: layer.inject(jnp.ones((3, INPUTS))),
        lambda: layer(jnp.ones((*CELLS, 3)), layer.inject(jnp.ones((*CELLS, INPUTS)))),
    ):
        with pytest.raises(UsageError) as raised:
            call()
        assert_helpful(raised)
