"""Groups of one-hot categories, and policies over them, against enumeration of all actions."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from loopwm.actions import ActionLayout
from loopwm.models import CategoricalPolicy, ValueConfig, categories, uniform_actions
from loopwm.models import policy as policies

GROUPS = (2, 3, 1)
LOGITS = jnp.asarray([0.0, 1.0, -1.0, 2.0, 0.5, 7.0])
CHANCES = [np.exp(part) / np.exp(part).sum() for part in ([0.0, 1.0], [-1.0, 2.0, 0.5], [7.0])]
HEADS = ValueConfig(hidden=8, depth=1, bins=21)
Z = jnp.asarray([0.5, -1.0])


def every_action(groups):
    """All one-hot vectors, shape (product, size)."""
    parts = itertools.product(*(np.eye(n) for n in groups))
    return np.stack([np.concatenate(part) for part in parts]).astype(np.float32)


@pytest.mark.parametrize("groups", [(6,), (3, 3), (2, 3, 1)], ids=str)
def test_rows_and_back(groups):
    table = categories.rows(LOGITS, groups, -1.0)
    assert table.shape == ((6,) if len(groups) == 1 else (len(groups), max(groups)))
    np.testing.assert_array_equal(categories.joined(table, groups), LOGITS)
    batch = jnp.stack([LOGITS, -LOGITS])
    np.testing.assert_array_equal(
        categories.joined(categories.rows(batch, groups, 0.0), groups), batch
    )
    np.testing.assert_array_equal(categories.counts(groups), np.repeat(groups, groups))


def test_uneven_rows_are_filled():
    table = categories.rows(LOGITS, GROUPS, -9.0)
    np.testing.assert_array_equal(table, [[0.0, 1.0, -9.0], [-1.0, 2.0, 0.5], [7.0, -9.0, -9.0]])


def test_probabilities_and_largest_by_hand():
    log_p = categories.log_softmax(LOGITS, GROUPS)
    np.testing.assert_allclose(np.exp(log_p), np.concatenate(CHANCES), rtol=1e-6)
    np.testing.assert_array_equal(categories.most_likely(LOGITS, GROUPS), [0, 1, 0, 1, 0, 1])


def test_gradients_of_uneven_groups_are_finite():
    slopes = jax.jacobian(lambda x: categories.log_softmax(x, GROUPS))(LOGITS)
    assert np.all(np.isfinite(slopes)) and not np.any(slopes[:2, 2:])


def test_draws_are_independent_and_follow_the_probabilities(key):
    drawn = np.asarray(categories.draw(LOGITS, GROUPS, 4000, key=key))
    assert set(np.unique(drawn)) == {0.0, 1.0}
    np.testing.assert_allclose(drawn.mean(0), np.concatenate(CHANCES), atol=0.03)
    both = (drawn[:, 1] * drawn[:, 3]).mean()
    assert both == pytest.approx(CHANCES[0][1] * CHANCES[1][1], abs=0.03)


@pytest.mark.parametrize("groups", [(3,), (2, 3, 1)], ids=str)
def test_uniform_actions_take_each_category_alike(groups, key):
    drawn = np.asarray(uniform_actions(ActionLayout.categorical(*groups), 3000, key=key))
    np.testing.assert_allclose(drawn.mean(0), 1.0 / categories.counts(groups), atol=0.03)
    assert np.all(drawn.sum(1) == len(groups))


def test_a_single_group_draws_what_it_did_before_there_were_groups(key):
    logits = LOGITS[None] * jnp.ones((4, 1))
    index = jax.random.categorical(key, logits, shape=(5, 4))
    drawn = categories.draw(logits, (6,), 5, key=key)
    np.testing.assert_array_equal(drawn, jax.nn.one_hot(index, 6))
    index = jax.random.randint(key, (7,), 0, 6)
    drawn = uniform_actions(ActionLayout.categorical(6), 7, key=key)
    np.testing.assert_array_equal(drawn, jax.nn.one_hot(index, 6))


@pytest.fixture(scope="module")
def policy():
    made = CategoricalPolicy(2, GROUPS, HEADS, key=jax.random.key(0))
    return eqx.tree_at(lambda p: p.network.readout.bias, made, LOGITS)


def test_a_policy_over_groups(policy, key):
    assert policy.action_size == 6
    np.testing.assert_allclose(
        np.exp(policy.log_probabilities(Z)), np.concatenate(CHANCES), rtol=1e-5
    )
    np.testing.assert_array_equal(policy.mode(Z), [0, 1, 0, 1, 0, 1])
    assert policy.sample(Z, key=key).shape == (6,)
    assert policy.target_entropy().sum() == pytest.approx(0.4 * np.log(6))
    assert policy.target_entropy().shape == (len(GROUPS),)
    sure = CategoricalPolicy(2, GROUPS, ValueConfig(entropy=0.1), key=key)
    assert sure.target_entropy().sum() == pytest.approx(0.1 * np.log(6))


def expectation(policy, value, key):
    """Estimate of E[value], and of its gradient by the biases, of one key."""

    def run(bias):
        given = eqx.tree_at(lambda p: p.network.readout.bias, policy, bias)
        actions, weights, entropy = given.weighted_actions(Z, key=key)
        return weights @ jax.vmap(value)(actions), (weights, entropy)

    (found, (weights, entropy)), slope = jax.value_and_grad(run, has_aux=True)(LOGITS)
    return found, slope, jnp.sum(weights), entropy


@pytest.mark.parametrize("most", [policies.ENUMERATED, 2], ids=["in turn", "sampled"])
def test_expectation_and_gradient_are_those_of_all_actions(policy, most, monkeypatch):
    monkeypatch.setattr(policies, "ENUMERATED", most)
    pairs = jnp.asarray(np.random.default_rng(0).normal(size=(6, 6)), jnp.float32)
    value = lambda u: u @ pairs @ u  # noqa: E731 -- groups matter together
    every = jnp.asarray(every_action(GROUPS))

    def exact(bias):
        log_p = every @ categories.log_softmax(bias, GROUPS)
        return jnp.exp(log_p) @ jax.vmap(value)(every)

    wanted, wanted_slope = jax.value_and_grad(exact)(LOGITS)
    keys = jax.random.split(jax.random.key(1), 4000)
    found, slopes, totals, entropy = jax.jit(jax.vmap(lambda k: expectation(policy, value, k)))(
        keys
    )
    np.testing.assert_allclose(totals, 1.0, atol=1e-5)
    h = -sum(np.sum(p * np.log(p)) for p in CHANCES)
    np.testing.assert_allclose(entropy, h, rtol=1e-4)
    for mean, each, exactly in (
        (found.mean(), found, wanted),
        (slopes.mean(0), slopes, wanted_slope),
    ):
        error = 4.0 * np.asarray(each).std(0) / np.sqrt(len(keys)) + 1e-4
        assert np.all(np.abs(np.asarray(mean) - np.asarray(exactly)) < error)
    assert np.abs(wanted_slope).max() > 0.05
