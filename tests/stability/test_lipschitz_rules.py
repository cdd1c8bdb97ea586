"""Bounds of containers, and what has no bound: against dense Jacobians and an adversary."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from foreign_layers import conv, filled_module, jacobians_at, largest_jacobian

from loopwm.errors import UsageError
from loopwm.stability import UpperBound, attack, lipschitz, norms

RELU = jax.nn.relu


class _Scale(eqx.Module):
    """An activation of one's own, with a weight."""

    factor: jax.Array

    def __call__(self, x):
        return self.factor * jnp.tanh(x)

    def lipschitz(self):
        return UpperBound(abs(float(self.factor)))


MLPS = {
    "default": {},
    "gelu": {"activation": jax.nn.gelu, "final_activation": jnp.tanh},
    "prelu": {"activation": eqx.nn.PReLU(-2.0), "final_activation": eqx.nn.PReLU(0.1)},
    "own": {"activation": _Scale(jnp.asarray(1.5)), "final_activation": _Scale(jnp.asarray(0.5))},
    "leaky": {"activation": functools.partial(jax.nn.leaky_relu, negative_slope=2.0)},
    "identity": {"activation": lambda x: x},
    "scanned": {"scan": True, "activation": eqx.nn.PReLU(1.5)},
}


def _mlp(name, key):
    return filled_module(lambda key: eqx.nn.MLP(5, 5, 6, 3, key=key, **MLPS[name]), key)


@pytest.mark.parametrize("name", MLPS)
def test_mlp_against_jacobians(name, key, rng):
    module = _mlp(name, key)
    bound = float(lipschitz(module))
    assert largest_jacobian(module, (5,), rng) <= bound * (1 + 1e-5)


def test_mlp_by_hand(key):
    module = eqx.nn.MLP(2, 2, 2, 1, activation=eqx.nn.PReLU(), key=key)
    weights = (jnp.diag(jnp.asarray([3.0, 1.0])), jnp.diag(jnp.asarray([1.0, 0.5])))
    module = eqx.tree_at(lambda m: tuple(layer.weight for layer in m.layers), module, weights)
    assert float(lipschitz(module)) == pytest.approx(3.0)
    # One neuron of one layer is steeper than all others: its slope counts.
    steep = eqx.tree_at(lambda m: m.activation.negative_slope, module, jnp.asarray([[0.25, -4.0]]))
    assert float(lipschitz(steep)) == pytest.approx(12.0)


def test_mlp_without_hidden_layers_leaves_its_final_activation_out(key, rng):
    module = eqx.nn.MLP(3, 3, 4, 0, final_activation=jax.nn.sigmoid, key=key)
    assert float(lipschitz(module)) == pytest.approx(
        largest_jacobian(module, (3,), rng, 2), rel=1e-5
    )


def test_scanned_mlp_equals_the_plain_one(key):
    plain = filled_module(lambda key: eqx.nn.MLP(3, 3, 4, 3, key=key), key)
    scanned = filled_module(lambda key: eqx.nn.MLP(3, 3, 4, 3, scan=True, key=key), key)
    hidden = jax.tree.map(lambda *x: jnp.stack(x), *plain.layers[1:-1])
    layers = (plain.layers[0], hidden, plain.layers[-1])
    scanned = eqx.tree_at(lambda m: m.layers, scanned, layers)
    assert float(lipschitz(scanned)) == pytest.approx(float(lipschitz(plain)), rel=1e-12)


def test_mlp_of_scalars(key):
    options = {"final_activation": jnp.tanh}
    module = filled_module(
        lambda key: eqx.nn.MLP("scalar", "scalar", 4, 1, key=key, **options), key
    )
    slopes = jacobians_at(module, jnp.linspace(-3.0, 3.0, 50))
    assert float(np.max(np.abs(slopes))) <= float(lipschitz(module))


def _sequential(key):
    keys = jax.random.split(key, 3)
    return eqx.nn.Sequential(
        [
            eqx.nn.Lambda(lambda x: x),
            conv(1, keys[0], padding="SAME"),
            eqx.nn.Lambda(jax.nn.silu),
            eqx.nn.MaxPool1d(2, 2),
            eqx.nn.Identity(),
            eqx.nn.Lambda(jnp.ravel),
            eqx.nn.WeightNorm(eqx.nn.Linear(8, 16, key=keys[1])),
            eqx.nn.Dropout(0.5, inference=True),
            eqx.nn.Lambda(eqx.nn.PReLU(2.0)),
        ]
    )


def test_sequential_is_the_product_of_its_layers(key, rng):
    module = _sequential(key)
    expected = np.prod([float(lipschitz(layer)) for layer in module.layers])
    assert float(lipschitz(module)) == pytest.approx(expected)
    assert largest_jacobian(module, (2, 8), rng) <= expected * (1 + 1e-5)


@pytest.mark.parametrize("name", ["sequential", "gelu", "prelu"])
def test_adversary_stays_below_the_bound_of_a_composite(name, key):
    if name == "sequential":
        module, width = _sequential(key), 16

        def call(x):  # equinox's convolution takes weights and inputs of one type alone
            arrays, rest = eqx.partition(module, eqx.is_inexact_array)
            arrays = jax.tree.map(lambda w: w.astype(x.dtype), arrays)
            return eqx.combine(arrays, rest)(x.reshape(2, 8))
    else:
        module, width = _mlp(name, key), 5
        call = module
    found = attack(call, norms.two, width, key=key, starts=8, steps=40)
    assert 0.02 * float(lipschitz(module)) < found.ratio <= float(lipschitz(module)) * (1 + 1e-6)


class _Doubled(eqx.nn.Linear):
    def __call__(self, x, *, key=None):
        return 2.0 * super().__call__(x, key=key)


class _Renamed(eqx.nn.Linear):
    pass


class _Known(eqx.nn.Linear):
    def __call__(self, x, *, key=None):
        return 2.0 * super().__call__(x, key=key)

    def lipschitz(self):
        return UpperBound(42.0)


class _Boastful(eqx.Module):
    def lipschitz(self):
        return 0.5


class _Unknown(eqx.Module):
    def __call__(self, x):
        return x


def test_subclasses_with_another_call_are_refused(key, assert_helpful):
    with pytest.raises(UsageError, match="_Doubled") as raised:
        lipschitz(_Doubled(3, 3, key=key))
    assert_helpful(raised)
    renamed = _Renamed(3, 3, key=key)
    assert float(lipschitz(renamed)) == pytest.approx(np.linalg.norm(renamed.weight, 2), rel=1e-6)


def test_a_method_of_the_module_goes_first(key):
    assert float(lipschitz(_Known(3, 3, key=key))) == 42.0


def test_a_number_is_no_bound(assert_helpful):
    with pytest.raises(UsageError, match="UpperBound") as raised:
        lipschitz(_Boastful())
    assert_helpful(raised)


def test_active_dropout_is_refused(assert_helpful):
    with pytest.raises(UsageError, match="dropout") as raised:
        lipschitz(eqx.nn.Dropout(0.5))
    assert_helpful(raised)
    assert float(lipschitz(eqx.nn.Dropout(0.0))) == 1.0


@pytest.mark.parametrize(
    "build",
    [
        lambda key: _Unknown(),
        lambda key: eqx.nn.MultiheadAttention(2, 4, key=key),
        lambda key: eqx.nn.ConvTranspose1d(2, 2, 3, key=key),
        lambda key: eqx.nn.AdaptiveAvgPool1d(2),
        lambda key: eqx.nn.Sequential([eqx.nn.Identity(), _Unknown()]),
        lambda key: eqx.nn.MLP(2, 2, 2, 1, activation=jnp.exp, key=key),
        lambda key: eqx.nn.BatchNorm(3, "batch", mode="ema"),
        lambda key: eqx.nn.SpectralNorm(eqx.nn.Linear(3, 3, key=key), "weight", key=key),
    ],
)
def test_unknown_layers_are_refused_with_a_remedy(build, key, assert_helpful):
    with pytest.raises(UsageError, match="No Lipschitz bound") as raised:
        lipschitz(build(key))
    assert_helpful(raised)


def test_a_rule_of_ones_own_joins_in():
    class Halved(eqx.Module):
        def __call__(self, x):
            return 0.5 * x

    lipschitz.register(Halved, lambda module: UpperBound(0.5))
    assert float(lipschitz(eqx.nn.Sequential([Halved(), Halved()]))) == pytest.approx(0.25)
