"""Policies: samples in range, true expectations, true entropies."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from loopwm.actions import ActionLayout
from loopwm.models import (
    CategoricalPolicy,
    GaussianPolicy,
    Sizes,
    ValueConfig,
    build_networks,
)

HEADS = ValueConfig(hidden=8, depth=1, bins=21)
Z = jnp.asarray([0.5, -1.0, 2.0, 0.0])


def _with_bias(policy, *bias):
    """The read-out weights start at zero, so the bias alone is the network's output."""
    return eqx.tree_at(lambda p: p.network.readout.bias, policy, jnp.asarray(bias))


@pytest.fixture(scope="module")
def fresh() -> tuple[CategoricalPolicy, GaussianPolicy]:
    def build(key):
        return CategoricalPolicy(4, (3,), HEADS, key=key), GaussianPolicy(4, 1, HEADS, key=key)

    return eqx.filter_jit(build)(jax.random.key(0))


@pytest.fixture(scope="module")
def categorical(fresh) -> CategoricalPolicy:
    return _with_bias(fresh[0], 0.0, 1.0, -2.0)


@pytest.fixture(scope="module")
def gaussian(fresh) -> GaussianPolicy:
    return _with_bias(fresh[1], 0.7, -2.0)


def test_policies_start_uncommitted(fresh):
    categorical, gaussian = fresh
    chances = eqx.filter_jit(categorical.log_probabilities)(Z)
    np.testing.assert_allclose(chances, np.full(3, -np.log(3)), rtol=1e-5)
    np.testing.assert_array_equal(eqx.filter_jit(gaussian.mode)(Z), np.zeros(1))


def test_categorical_expectation_and_entropy_by_hand(categorical, key):
    p = np.exp([0.0, 1.0, -2.0])
    p /= p.sum()
    actions, weights, entropy = categorical.weighted_actions(Z, key=key)
    np.testing.assert_array_equal(actions, np.eye(3))
    np.testing.assert_allclose(weights, p, rtol=1e-5)
    assert float(jnp.sum(weights)) == pytest.approx(1.0, abs=1e-6)
    assert float(entropy) == pytest.approx(-np.sum(p * np.log(p)), rel=1e-5)
    np.testing.assert_array_equal(categorical.mode(Z), [0.0, 1.0, 0.0])


def test_categorical_samples_are_one_hot_and_follow_the_probabilities(categorical, key):
    sample = jax.jit(jax.vmap(lambda k: categorical.sample(Z, key=k)))
    drawn = np.asarray(sample(jax.random.split(key, 4000)))
    assert set(np.unique(drawn)) == {0.0, 1.0} and np.all(drawn.sum(1) == 1.0)
    expected = np.exp([0.0, 1.0, -2.0]) / np.exp([0.0, 1.0, -2.0]).sum()
    np.testing.assert_allclose(drawn.mean(0), expected, atol=0.025)


def test_a_certain_categorical_policy_has_finite_entropy_and_gradient(categorical, key):
    def entropy(bias):
        certain = eqx.tree_at(lambda p: p.network.readout.bias, categorical, bias)
        return certain.weighted_actions(Z, key=key)[2]

    value, gradient = jax.jit(jax.value_and_grad(entropy))(jnp.asarray([200.0, 0.0, -200.0]))
    assert float(value) == pytest.approx(0.0, abs=1e-6) and np.all(np.isfinite(gradient))


@eqx.filter_jit
def _weighted(policy, keys):
    return jax.vmap(lambda k: policy.weighted_actions(Z, key=k))(keys)


def _density(a: float, mean: float, scale: float) -> float:
    """Density of tanh(x), x ~ N(mean, scale), by the change of variables."""
    return float(stats.norm.pdf(np.arctanh(a), mean, scale) / (1.0 - a**2))


@pytest.mark.parametrize("mean, raw", [(0.0, 0.0), (0.7, -2.0), (1.5, -4.0)])
def test_gaussian_entropy_estimate_is_minus_log_density(mean, raw, gaussian, key):
    policy = _with_bias(gaussian, mean, raw)
    # The documented squashing of the scale between its limits.
    low, high = policy.log_scale_min, policy.log_scale_max
    scale = float(np.exp(low + (high - low) / (1 + np.exp(-(raw + 2.0)))))
    actions, weights, entropy = _weighted(policy, jax.random.split(key, 4000))
    assert actions.shape == (4000, 1, 1)
    np.testing.assert_array_equal(weights, np.ones((4000, 1)))
    for a, e in zip(np.asarray(actions, np.float64)[:40, 0, 0], entropy[:40], strict=True):
        if abs(a) < 0.999:  # arctanh of a float32 near 1 is too coarse to compare with
            assert float(e) == pytest.approx(-np.log(_density(a, mean, scale)), abs=2e-3)

    def surprise(a):
        p = _density(a, mean, scale)
        return -p * np.log(p) if p > 0 else 0.0

    total = integrate.quad(lambda a: _density(a, mean, scale), -1, 1, limit=200)[0]
    assert total == pytest.approx(1.0, abs=1e-5)
    exact = integrate.quad(surprise, -1, 1, limit=200)[0]
    assert float(jnp.mean(entropy)) == pytest.approx(exact, abs=0.06)


def test_gaussian_samples_are_in_range_and_spread(gaussian, key):
    sample = jax.jit(jax.vmap(lambda k: gaussian.sample(Z, key=k)))
    drawn = np.asarray(sample(jax.random.split(key, 1000)))
    assert drawn.shape == (1000, 1) and np.all(np.abs(drawn) <= 1.0)
    assert drawn.std() > 0.05
    assert float(np.median(drawn)) == pytest.approx(float(gaussian.mode(Z)[0]), abs=0.05)
    assert float(gaussian.mode(Z)[0]) == pytest.approx(np.tanh(0.7), rel=1e-5)


@pytest.mark.parametrize("mean", [-60.0, 60.0])
def test_a_saturated_gaussian_policy_has_finite_entropy_and_gradient(mean, gaussian, key):
    def total(bias):
        policy = eqx.tree_at(lambda p: p.network.readout.bias, gaussian, bias)
        actions, _, entropy = policy.weighted_actions(Z, key=key)
        return jnp.sum(actions) + entropy, actions

    (value, actions), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(
        jnp.asarray([mean, 50.0])
    )
    assert np.isfinite(float(value)) and np.all(np.isfinite(gradient))
    assert abs(float(actions[0, 0])) <= 1.0


def test_reparametrised_samples_carry_a_gradient(gaussian, key):
    def action(bias):
        policy = eqx.tree_at(lambda p: p.network.readout.bias, gaussian, bias)
        return policy.weighted_actions(Z, key=key)[0][0, 0]

    gradient = jax.jit(jax.grad(action))(jnp.asarray([0.7, -2.0]))
    assert abs(float(gradient[0])) > 1e-2 and abs(float(gradient[1])) > 1e-4


def test_state_value_is_the_expectation_over_the_policy(small_config, filled, key, rng):
    networks = filled(
        lambda k: build_networks(
            small_config, HEADS, Sizes(4, 3), actions=ActionLayout.categorical(3), key=k
        )
    )
    z = jnp.asarray(rng.normal(size=8), jnp.float32)

    @eqx.filter_jit
    def run(networks):
        q = jax.vmap(lambda u: networks.critic.values(z, u))(jnp.eye(3))
        return networks.value(z, key=key), q, jnp.exp(networks.policy.log_probabilities(z))

    value, q, p = (np.asarray(x, np.float64) for x in run(networks))
    np.testing.assert_allclose(value, p @ q, rtol=1e-4, atol=1e-5)
    assert np.ptp(q) > 1e-2 and np.ptp(p) > 1e-2
