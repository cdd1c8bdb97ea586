"""Running normalisation against NumPy on everything seen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopwm.errors import RunFailure
from loopwm.models import Normalizer
from loopwm.models.normalizer import LARGEST


def _merged(batches) -> Normalizer:
    normalizer = Normalizer.create(3)
    for batch in batches:
        normalizer = normalizer.update(batch)
    return normalizer


@given(
    sizes=st.lists(st.integers(0, 7), min_size=1, max_size=6).filter(lambda s: sum(s) > 0),
    log_scale=st.floats(-4, 4),
    shift=st.floats(-100, 100),
    seed=st.integers(0, 2**16),
)
def test_merged_batches_equal_numpy_on_all_of_them(sizes, log_scale, shift, seed):
    rng = np.random.default_rng(seed)
    batches = [
        (shift + 10.0**log_scale * rng.normal(size=(n, 3))).astype(np.float32) for n in sizes
    ]
    everything = np.concatenate(batches).astype(np.float64)
    normalizer = _merged(batches)
    assert float(normalizer.count) == len(everything)
    np.testing.assert_allclose(normalizer.mean, everything.mean(0), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(normalizer.variance, everything.var(0), rtol=1e-6, atol=1e-9)


def test_it_stays_exact_far_from_the_origin(rng):
    # Sums of squares in float32 would lose everything here.
    batches = [(1e4 + rng.normal(size=(10, 3))).astype(np.float32) for _ in range(200)]
    np.testing.assert_allclose(
        _merged(batches).variance, np.concatenate(batches).astype(np.float64).var(0), rtol=1e-6
    )


def test_normalised_data_has_mean_zero_and_variance_one(rng):
    data = (5.0 + 3.0 * rng.normal(size=(500, 3))).astype(np.float32)
    normalized = jax.vmap(_merged([data]))(jnp.asarray(data))
    np.testing.assert_allclose(jnp.mean(normalized, 0), 0.0, atol=1e-3)
    np.testing.assert_allclose(jnp.std(normalized, 0), 1.0, atol=1e-3)


def test_constant_entries_become_zero_and_outliers_are_clipped():
    batch = np.full((50, 3), 12345.678, np.float32)
    batch[:, 1] = np.linspace(-1, 1, 50)
    normalizer = _merged([batch[:20], batch[20:]])
    normalized = normalizer(jnp.asarray(batch[0]).at[1].set(1e9))
    np.testing.assert_array_equal(normalized, [0.0, normalizer.clip, 0.0])


def test_before_anything_was_seen_it_is_the_identity():
    np.testing.assert_allclose(
        Normalizer.create(3)(jnp.asarray([1.0, -2.0, 0.5])), [1.0, -2.0, 0.5], rtol=1e-6
    )


def test_what_was_normalised_is_restored(rng):
    data = (5.0 + 3.0 * rng.normal(size=(50, 3))).astype(np.float32)
    data[:, 1] = 7.0  # a constant entry
    normalizer = _merged([data])
    restored = jax.vmap(normalizer.restore)(jax.vmap(normalizer)(jnp.asarray(data)))
    np.testing.assert_allclose(restored, data, rtol=1e-5)


@pytest.mark.parametrize("value", [2e19, -3e38, np.nan, np.inf])
def test_entries_that_cannot_be_squared_are_named(value, assert_helpful):
    batch = np.array([[0.0, 1.0, 2.0], [0.0, value, 1.0]])
    with pytest.raises(RunFailure, match=f"holds {value:g} at entry 1".replace("+", r"\+")) as said:
        Normalizer.create(3).update(batch)
    assert_helpful(said)
    # Those that do not follow what is seen are left alone.
    batch[1, 1] = 2e19
    left = Normalizer.create(3).update(batch, np.array([True, False, True]))
    np.testing.assert_array_equal(left.variance[1], 1.0)


def test_the_largest_entries_are_normalised():
    batch = np.array([[LARGEST], [-LARGEST]])
    normalizer = Normalizer.create(1).update(batch)
    np.testing.assert_allclose(
        jax.vmap(normalizer)(jnp.asarray(batch, jnp.float32)), [[1.0], [-1.0]], rtol=1e-5
    )
