"""The reward's loss: never negative, local scale of small rewards, means as minimisers."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from loopwm.training.reward_error import FLAT, reward_error

REWARDS = st.floats(-1.0, 1.0, width=32)
BENDS = st.floats(FLAT, 5.0)


def slope(predicted, reward, bend):
    found = jax.grad(lambda p: jnp.mean(reward_error(p, jnp.asarray(reward), bend)))
    return float(found(jnp.full(np.shape(reward), predicted)).sum())


@hypothesis.given(REWARDS, REWARDS, BENDS)
@hypothesis.settings(max_examples=200, deadline=None)
def test_never_negative_and_zero_where_equal(predicted, reward, bend):
    found = float(reward_error(jnp.asarray(predicted), jnp.asarray(reward), bend))
    assert found >= -1e-5
    same = float(reward_error(jnp.asarray(reward), jnp.asarray(reward), bend))
    assert same == 0.0


@hypothesis.given(REWARDS, REWARDS, BENDS)
@hypothesis.settings(max_examples=100, deadline=None)
def test_against_the_formula_in_float64(predicted, reward, bend):
    x, y = np.sinh(np.float64(bend)) * np.array([predicted, reward])
    wanted = y * (np.arctan(y) - np.arctan(x)) + 0.5 * np.log((1 + x**2) / (1 + y**2))
    found = reward_error(jnp.asarray(predicted), jnp.asarray(reward), bend)
    np.testing.assert_allclose(found, 2 / bend**2 * wanted, rtol=2e-3, atol=1e-5)


def test_flat_is_the_squared_error():
    predicted, reward = np.meshgrid(np.linspace(-1, 1, 21), np.linspace(-1, 1, 21))
    found = reward_error(jnp.asarray(predicted), jnp.asarray(reward), FLAT)
    np.testing.assert_allclose(found, (predicted - reward) ** 2, rtol=1.5e-2, atol=1e-5)


@pytest.mark.parametrize("bend", [1.0, 3.0, 5.0])
@pytest.mark.parametrize("reward", [-0.5, 0.0, 0.01, 0.9])
def test_near_the_reward_it_is_the_squared_error_of_the_compressed_one(bend, reward):
    scale = np.sinh(bend)
    squeeze = scale / bend / np.sqrt(1 + (scale * reward) ** 2)
    error = 0.01 / squeeze
    found = reward_error(jnp.asarray(reward + error), jnp.asarray(reward), bend)
    np.testing.assert_allclose(found, 0.01**2, rtol=0.15)


@pytest.mark.parametrize("bend", [FLAT, 2.0, 4.4])
def test_the_mean_minimises_it(bend):
    """Once in 25 steps a reward of 1, or one of −1 once in 50, beside small ones."""
    rewards = np.array([1.0, *[0.0] * 24, -1.0, *[0.01] * 24])
    rewards = np.concatenate([rewards[:25], rewards])
    mean = rewards.mean()
    assert abs(slope(float(mean), rewards, bend)) < 1e-5
    for off in (-0.02, 0.02):
        assert np.sign(slope(float(mean) + off, rewards, bend)) == np.sign(off)


def test_gradients_are_finite_at_the_ends():
    for predicted in (-3.0, 0.0, 3.0):
        for reward in (-1.0, 0.0, 1.0):
            assert np.isfinite(slope(predicted, reward, 5.0))
