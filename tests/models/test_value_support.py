"""Values as distributions: unbiased over the whole range, and a critic that uses them."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from loopwm.errors import UsageError
from loopwm.models import Critic, ValueConfig, ValueSupport


@eqx.filter_jit
def _targets(support, values):
    return jax.vmap(support.target)(values)


@eqx.filter_jit
def _means(support, probabilities):
    return jax.vmap(lambda p: support.mean(jnp.log(p + 1e-30)))(probabilities)


@pytest.mark.parametrize("bins", [51, 21])
def test_targets_are_distributions_with_the_right_mean_up_to_the_edges(bins):
    support, values = ValueSupport(bins), jnp.linspace(-1.0, 1.0, 401)
    targets = _targets(support, values)
    assert targets.shape == (401, bins) and float(jnp.min(targets)) >= 0.0
    np.testing.assert_allclose(jnp.sum(targets, axis=1), 1.0, atol=1e-5)
    # A bias at the edge would be fed back by bootstrapping: 0.006 makes a value of 1 into 0.96.
    np.testing.assert_allclose(_means(support, targets), values, atol=5e-4)


def test_bootstrapping_keeps_the_value_of_a_perfect_policy():
    # Reward 1 for ever is the value 1 = (1 − γ)·1 + γ·1, which every CartPole run approaches.
    support, discount = ValueSupport(51), 0.99

    def bootstrap(_, value):
        target = support.target((1 - discount) + discount * value)
        return support.mean(jnp.log(target + 1e-30))

    final = jax.jit(lambda v: jax.lax.fori_loop(0, 1000, bootstrap, v))(jnp.asarray(0.5))
    assert float(final) == pytest.approx(1.0, abs=5e-3)


def test_values_outside_are_clipped_to_the_range():
    support = ValueSupport(51)
    outside = _targets(support, jnp.asarray([-7.0, 7.0, -1.0, 1.0]))
    np.testing.assert_array_equal(outside[:2], outside[2:])
    np.testing.assert_allclose(_means(support, outside[:2]), [-1.0, 1.0], atol=5e-4)


def test_targets_are_smoothed_and_symmetric():
    support = ValueSupport(51)
    low, middle, high = _targets(support, jnp.asarray([-0.4, 0.0, 0.4]))
    np.testing.assert_allclose(low, high[::-1], atol=1e-5)
    assert 3 <= int(jnp.sum(middle > 1e-3)) <= 7  # a few bins, neither one nor all
    assert int(jnp.argmax(middle)) == 25


@pytest.fixture(scope="module")
def critic() -> Critic:
    heads = ValueConfig(hidden=8, depth=1, bins=21)
    return eqx.filter_jit(lambda key: Critic(4, 2, heads, key=key))(jax.random.key(2))


def test_critic_starts_at_zero_with_two_different_members(critic):
    z, u = jnp.ones(4), jnp.asarray([1.0, 0.0])
    np.testing.assert_allclose(eqx.filter_jit(critic.values)(z, u), np.zeros(2), atol=1e-6)
    weight = critic.members.hidden[0].linear.weight
    assert weight.shape[0] == 2 and float(jnp.max(jnp.abs(weight[0] - weight[1]))) > 1e-2


def test_critic_started_at_a_value_answers_it_everywhere(critic, rng):
    for value in (-0.9, 0.3, 1.0):
        started = critic.started_at(jnp.asarray(value))
        answers = eqx.filter_jit(started.values)(
            jnp.asarray(rng.normal(size=4), jnp.float32), jnp.ones(2)
        )
        np.testing.assert_allclose(answers, value, atol=0.05)


def test_critic_can_be_fitted_to_values_that_depend_on_the_action(critic):
    z = jnp.asarray([1.0, -1.0, 0.5, 0.0])
    actions, wanted = jnp.eye(2), jnp.asarray([-0.6, 0.95])

    def loss(parts, static):
        model = eqx.combine(parts, static)
        logits = jax.vmap(lambda u: model.logits(z, u))(actions)
        labels = jax.vmap(model.support.target)(wanted)
        return -jnp.mean(jnp.sum(labels[:, None] * jax.nn.log_softmax(logits), -1))

    parts, static = eqx.partition(critic, eqx.is_inexact_array)

    def descend(_, p):
        return jax.tree.map(lambda x, g: x - 0.3 * g, p, jax.grad(loss)(p, static))

    fitted = eqx.combine(jax.jit(lambda p: jax.lax.fori_loop(0, 300, descend, p))(parts), static)
    answers = jax.jit(jax.vmap(lambda u: fitted.values(z, u)))(actions)
    np.testing.assert_allclose(answers, jnp.stack([wanted, wanted], axis=1), atol=0.05)


@pytest.mark.parametrize("change", [{"hidden": 0}, {"depth": 0}, {"bins": 8}], ids=str)
def test_impossible_heads_are_refused(change, assert_helpful):
    with pytest.raises(UsageError, match="heads") as raised:
        ValueConfig(**change)
    assert_helpful(raised)
