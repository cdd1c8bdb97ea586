"""The adversary: strong enough to find a known constant, and never above the truth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from loopwm.stability import attack, weighted


def test_attack_finds_the_norm_of_a_linear_map_from_below(key, rng):
    matrix = jnp.asarray(rng.normal(size=(6, 6)), jnp.float32)
    true = np.linalg.norm(np.asarray(matrix, np.float64), 2)
    result = attack(lambda h: matrix @ h, jnp.linalg.norm, 6, key=key, starts=16, steps=100)
    assert 0.95 * true <= result.ratio <= true * (1 + 1e-4)
    assert result.ratios.shape == (16,)
    assert result.ratio == pytest.approx(float(jnp.max(result.ratios)))
    # Ascent, not luck: a random pair of this map is far below.
    pairs = rng.normal(size=(16, 6))
    random = np.linalg.norm(pairs @ np.asarray(matrix).T, axis=1) / np.linalg.norm(pairs, axis=1)
    assert random.mean() < 0.8 * result.ratio


def test_attack_measures_in_the_norm_that_it_is_given(key):
    # The counterexample of DESIGN 4.1 beats 1 in the plain norm and stays below 1 in the P-norm.
    retention = jnp.asarray([0.9, 0.0])
    p = weighted.weights(retention, 0.95)

    def update(h):
        return retention * h + (1 - retention) * 0.95 * h[::-1]

    plain = attack(update, jnp.linalg.norm, 2, key=key, starts=8, steps=100)
    inside = attack(update, lambda x: weighted.norm(x, p), 2, key=key, starts=8, steps=100)
    assert plain.ratio == pytest.approx(1.31, rel=0.05)
    assert 0.9 < inside.ratio <= 0.995 * (1 + 1e-4)


def test_attack_looks_far_from_the_origin(key):
    # Steep only where some entry is beyond 50: a search around the origin would report 0.5.
    def update(h):
        return 0.5 * h + 2.5 * jax.nn.relu(h - 50.0)

    result = attack(update, jnp.linalg.norm, 3, key=key, starts=16, steps=100)
    assert 0.95 * 3.0 <= result.ratio <= 3.0 * (1 + 1e-4)


def test_rounding_far_from_the_origin_is_not_taken_for_expansion(key):
    # In float32 each state of this identity-like map is off by up to 4e-3 beside 1e5.
    def update(h):
        return 0.9 * ((h + 1e5) - 1e5)

    result = attack(update, jnp.linalg.norm, 4, key=key, starts=16, steps=20)
    assert result.ratio == pytest.approx(0.9, rel=1e-4)


def test_nan_is_not_taken_for_contraction(key):
    result = attack(lambda h: h * jnp.nan, jnp.linalg.norm, 2, key=key, starts=4, steps=3)
    assert np.isnan(result.ratio)
