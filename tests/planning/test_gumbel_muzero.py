"""Gumbel MuZero search on games whose returns and visits are known."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from loopwm.actions import ActionLayout
from loopwm.core import RESULTS
from loopwm.errors import UsageError
from loopwm.planning import GumbelMuZeroConfig

CONFIG = GumbelMuZeroConfig(simulations=8)
PAY = jnp.asarray([0.1, 0.2, 0.3, 0.4])


@pytest.fixture
def decide(plans):
    """Decisions of a search on a model."""

    def run(model, z=0.0, *, config=CONFIG, groups=None, explore=False):
        planner = config.build(ActionLayout.categorical(*(groups or (model.action_size,))))
        return plans(planner, model, jnp.full(1, z), count=128, explore=explore)

    return run


def chosen(found):
    """Indices of one-hot actions."""
    return np.argmax(found.value, axis=1)


def bandit(toys, rewards=PAY, prior=None):
    prior = jnp.full(len(rewards), -jnp.log(4.0)) if prior is None else prior
    return toys["bandit"](rewards, prior, action_size=len(rewards))


def test_sequential_halving_visits_the_better_half_more(toys, decide):
    found = decide(bandit(toys))
    assert np.all(found.result == RESULTS.successful)
    np.testing.assert_array_equal(chosen(found), np.full(128, 3))
    # Of 8 visits the four arms get one each, then the better two the other four: 1, 1, 3, 3.
    visits = np.array([1, 1, 3, 3]) / 8
    mean = visits @ np.asarray(PAY)
    spread = np.sqrt(visits @ (np.asarray(PAY) - mean) ** 2)
    np.testing.assert_allclose(found.stats.mean, np.full(128, mean), rtol=1e-5)
    np.testing.assert_allclose(found.stats.spread, np.full(128, spread), rtol=1e-4)
    np.testing.assert_allclose(found.stats.best, np.full(128, 0.4), rtol=1e-5)
    np.testing.assert_allclose(found.stats.loops, np.full(128, 3.0), rtol=1e-6)
    returns = found.stats.returns
    assert returns.best.shape == (128, 1)
    np.testing.assert_array_equal(returns.spread[:, 0], found.stats.spread)


def test_the_prior_decides_where_returns_do_not(toys, decide):
    equal = bandit(toys, jnp.zeros(4), jnp.log(jnp.asarray([0.1, 0.2, 0.6, 0.1])))
    np.testing.assert_array_equal(chosen(decide(equal)), np.full(128, 2))
    # Considering one action alone, the prior decides even against the returns.
    one = dataclasses.replace(CONFIG, considered=1)
    sure = bandit(toys, PAY, jnp.log(jnp.asarray([0.7, 0.1, 0.1, 0.1])))
    np.testing.assert_array_equal(chosen(decide(sure, config=one)), np.zeros(128))


def test_looks_past_the_first_reward(toys, decide):
    # 0 pays 1 and ends; 1 pays .4 and goes on: two of it and the end are worth more.
    more = dataclasses.replace(CONFIG, simulations=16)
    found = decide(toys["cliff"](jnp.asarray(1.0)), config=more)
    np.testing.assert_array_equal(found.value, np.tile([0.0, 1.0], (128, 1)))
    endless = decide(toys["cliff"](jnp.asarray(0.0)), config=more)
    np.testing.assert_array_equal(endless.value, np.tile([1.0, 0.0], (128, 1)))
    # A tree of one step sees the first reward alone.
    short = dataclasses.replace(CONFIG, max_depth=1)
    blind = decide(toys["cliff"](jnp.asarray(1.0)), config=short)
    np.testing.assert_array_equal(blind.value, np.tile([1.0, 0.0], (128, 1)))
    np.testing.assert_allclose(blind.stats.loops, np.ones(128))


def test_the_critic_ends_a_path_by_hand(toys, decide):
    # One simulation an action: r + γ c V(z'), with V = 2 z and z' = z + 1.
    model = toys["constant"](0.5, 0.8, 2.0, action_size=2)

    class Known(type(model)):
        def log_prior(self, z):
            return jnp.zeros(2)

    known = Known(0.5, 0.8, 2.0, action_size=2)
    found = decide(known, 3.0, config=dataclasses.replace(CONFIG, simulations=2))
    np.testing.assert_allclose(
        found.stats.best, np.full(128, 0.5 + 0.9 * 0.8 * 2.0 * 4.0), rtol=1e-5
    )
    np.testing.assert_allclose(found.stats.spread, np.zeros(128), atol=1e-4)


def test_exploring_draws_and_acting_does_not(toys, decide):
    equal = bandit(toys, jnp.zeros(4))
    drawn = chosen(decide(equal, explore=True))
    assert np.bincount(drawn, minlength=4).min() > 16
    assert len(set(chosen(decide(equal)).tolist())) == 1


def test_groups_are_searched_jointly(toys, decide):
    pair = bandit(toys, jnp.asarray([0.1, 0.5, 0.0, 0.7, 0.2]), jnp.zeros(5))
    found = decide(pair, groups=(2, 3))
    np.testing.assert_array_equal(found.value, np.tile([0, 1, 0, 1, 0], (128, 1)))
    np.testing.assert_allclose(found.stats.best, np.full(128, 1.2), rtol=1e-5)
    planner = CONFIG.build(ActionLayout.categorical(2, 3))
    assert planner.actions.shape == (6, 5) and np.all(planner.actions.sum(axis=1) == 2)


def test_too_many_joint_actions_are_refused(assert_helpful):
    assert len(CONFIG.build(ActionLayout.categorical(16, 16)).actions) == 256
    with pytest.raises(UsageError, match="272 joint actions.*categorical_cem") as raised:
        CONFIG.build(ActionLayout.categorical(17, 16))
    assert_helpful(raised)
    assert (
        len(CONFIG.build(ActionLayout.categorical(300)).actions) == 300
    )  # one group is no product


def test_a_model_without_probabilities_is_refused(toys, decide, assert_helpful):
    with pytest.raises(UsageError, match="gumbel_muzero needs") as raised:
        decide(toys["regulator"]())
    assert_helpful(raised)


def test_nan_in_the_model_is_reported(toys, decide):
    found = decide(bandit(toys, PAY.at[1].set(jnp.nan)))
    assert np.all(found.result == RESULTS.nonfinite)
