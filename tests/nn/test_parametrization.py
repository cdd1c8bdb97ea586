"""Constrained weights: capped and not normalised, and the same once resolved."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from loopwm.nn import AbstractParametrization, ConvexPotential, SpectralCap, array_of, resolve


def _constrained(tree) -> list:
    def is_one(node):
        return isinstance(node, AbstractParametrization)

    return [leaf for leaf in jax.tree.leaves(tree, is_leaf=is_one) if is_one(leaf)]


def test_a_matrix_under_the_cap_is_left_alone(rng):
    free = rng.normal(size=(5, 3)).astype(np.float32)
    free *= 0.7 / np.linalg.norm(free, 2)
    np.testing.assert_array_equal(SpectralCap(jnp.asarray(free), 1.0).value(), free)


def test_a_matrix_over_the_cap_keeps_its_direction(rng):
    free = rng.normal(size=(5, 3)).astype(np.float32)
    capped = np.asarray(SpectralCap(jnp.asarray(20 * free), 1.5).value(), np.float64)
    assert 0.98 * 1.5 <= np.linalg.norm(capped, 2) <= 1.5
    ratio = capped / free
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-5)


@pytest.mark.parametrize("cap", [0.5, 1.0, 3.0])
def test_zero_stays_zero_with_a_gradient_of_one(cap):
    # A division by the bound of a zero matrix would give NaN in one of the two.
    def total(free):
        return jnp.sum(SpectralCap(free, cap).value())

    np.testing.assert_array_equal(SpectralCap(jnp.zeros((3, 2)), cap).value(), np.zeros((3, 2)))
    np.testing.assert_allclose(jax.jit(jax.grad(total))(jnp.zeros((3, 2))), np.ones((3, 2)))


def test_array_of_takes_both_forms():
    array = jnp.ones((2, 2))
    assert array_of(array) is array
    np.testing.assert_array_equal(array_of(SpectralCap(array, 10.0)), array)


def test_resolve_replaces_every_constraint_and_nothing_else(key):
    layers = {
        "a": ConvexPotential(4, 4, 4, key=key),
        "b": [ConvexPotential(4, 3, 2, key=key), 7, None],
    }
    resolved = resolve(layers)
    assert len(_constrained(layers)) == 2 and not _constrained(resolved)
    np.testing.assert_array_equal(resolved["a"].weight, layers["a"].weight.value())
    np.testing.assert_array_equal(resolved["b"][0].injection, layers["b"][0].injection)
    assert resolved["b"][1:] == [7, None]


def test_resolve_gives_the_same_function_and_gradients(key, rng):
    layer = ConvexPotential(5, 4, 3, key=key)
    layer = eqx.tree_at(lambda x: x.weight.free, layer, 3.0 * layer.weight.free)  # cap active
    y = jnp.asarray(rng.normal(size=5), jnp.float32)
    e = jnp.asarray(rng.normal(size=3), jnp.float32)

    def loss(module):
        return jnp.sum(module(module(y, module.inject(e)), module.inject(e)) ** 2)

    direct, gradient = eqx.filter_jit(eqx.filter_value_and_grad(loss))(layer)
    through, resolved = eqx.filter_jit(eqx.filter_value_and_grad(lambda m: loss(resolve(m))))(layer)
    np.testing.assert_allclose(direct, through, rtol=1e-6)
    assert float(jnp.max(jnp.abs(gradient.weight.free))) > 1e-3
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(resolved), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    # An active cap makes the function independent of the scale of the free matrix.
    radial = jnp.sum(gradient.weight.free * layer.weight.free)
    assert abs(float(radial)) < 1e-3 * float(jnp.linalg.norm(gradient.weight.free)) * float(
        jnp.linalg.norm(layer.weight.free)
    )
