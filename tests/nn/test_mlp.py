"""The plain network, by hand."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from loopwm.nn import MLP


def _by_hand(network: MLP, x: np.ndarray) -> np.ndarray:
    for layer in network.hidden:
        x = np.asarray(layer.linear.weight) @ x + np.asarray(layer.linear.bias)
        x = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
        x = x * np.asarray(layer.norm.weight) + np.asarray(layer.norm.bias)
        x = x / (1.0 + np.exp(-x))
    return np.asarray(network.readout.weight) @ x + np.asarray(network.readout.bias)


def test_forward_by_hand(filled, rng):
    network = filled(lambda key: MLP(3, 2, width=8, depth=2, key=key))
    x = rng.normal(size=3)
    assert len(network.hidden) == 2
    result = eqx.filter_jit(network)(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(result, _by_hand(network, x), atol=1e-5)


def test_zero_readout_starts_at_zero_and_can_learn(key):
    x = jnp.asarray([1.0, -2.0, 3.0])
    network = MLP(3, 2, width=8, zero_readout=True, key=key)
    np.testing.assert_array_equal(eqx.filter_jit(network)(x), np.zeros(2))
    gradient = eqx.filter_jit(eqx.filter_grad(lambda n: jnp.sum(n(x))))(network)
    assert float(jnp.max(jnp.abs(gradient.readout.weight))) > 0.01
    other = MLP(3, 2, width=8, key=key)
    assert float(jnp.max(jnp.abs(other.readout.weight))) > 1e-3


def test_layers_have_their_own_weights(key):
    network = MLP(8, 8, width=8, depth=2, key=key)
    weights = [layer.linear.weight for layer in network.hidden] + [network.readout.weight]
    for i in range(3):
        for j in range(i):
            assert float(jnp.max(jnp.abs(weights[i] - weights[j]))) > 1e-2
