"""Iteration at a fixed and at a drawn depth."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from loopwm.core import RESULTS, FixedDepth, SampledDepth, iterate

WIDTH = 8
MAX_DEPTH = 7


@pytest.fixture
def starts(rng):
    return jnp.asarray(rng.normal(size=(MAX_DEPTH, WIDTH)), jnp.float32)


@eqx.filter_jit
def _fixed(update, h, depth):
    return iterate(update, h, FixedDepth(depth))


@eqx.filter_jit
def _mixed(update, starts, depths):
    return jax.vmap(lambda h, d: iterate(update, h, SampledDepth(d, MAX_DEPTH)))(starts, depths)


def test_fixed_depth_is_a_plain_python_loop(core, bind, inputs, starts):
    update = bind(core, *inputs)
    step = eqx.filter_jit(lambda update, h: update(h))
    h = starts[0]
    for depth in range(1, 4):
        previous, h = h, step(update, h)
        solution = _fixed(update, starts[0], depth)
        np.testing.assert_allclose(solution.value, h, rtol=1e-6, atol=1e-7)
        assert int(solution.stats.loops) == depth
        assert float(solution.stats.residual) == pytest.approx(
            float(update.norm(h - previous)), rel=1e-4
        )
        assert solution.result == RESULTS.successful


def test_fixed_depth_agrees_with_the_float64_reference(core, bind, inputs, reference):
    update = bind(core, *inputs)
    twin, h = reference(update), np.zeros(WIDTH)
    for _ in range(5):
        h = twin(h)
    assert np.linalg.norm(h) > 0.1
    np.testing.assert_allclose(_fixed(update, jnp.zeros(WIDTH), 5).value, h, atol=1e-5)


def test_a_batch_that_mixes_depths_equals_each_sample_alone(core, bind, inputs, starts):
    update = bind(core, *inputs)
    depths = jnp.asarray([3, 1, 7, 2, 7, 5, 1])
    batch = _mixed(update, starts, depths)
    np.testing.assert_array_equal(batch.stats.loops, depths)
    for i in (0, 1, 2, 5):
        alone = _fixed(update, starts[i], int(depths[i]))
        np.testing.assert_allclose(batch.value[i], alone.value, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(batch.stats.residual[i], alone.stats.residual, rtol=1e-3)
        np.testing.assert_allclose(batch.stats.error_bound[i], alone.stats.error_bound, rtol=1e-3)
    assert np.all(batch.result == RESULTS.successful)
    # Teeth: the depths do change the answer.
    assert float(jnp.max(jnp.abs(batch.value[0] - _fixed(update, starts[0], 7).value))) > 1e-3


def test_gradients_of_a_masked_depth_equal_those_of_the_fixed_one(core, bind, inputs, starts):
    update = bind(core, *inputs)
    arrays, static = eqx.partition(update, eqx.is_inexact_array)

    def loss(parts, h, rule):
        return jnp.sum(iterate(eqx.combine(parts, static), h, rule).value ** 2)

    gradient = eqx.filter_jit(jax.grad(loss, argnums=(0, 1)))
    fixed = gradient(arrays, starts[0], FixedDepth(3))
    masked = gradient(arrays, starts[0], SampledDepth(jnp.asarray(3), MAX_DEPTH))
    assert float(jnp.max(jnp.abs(fixed[1]))) > 1e-3
    for a, b in zip(jax.tree.leaves(fixed), jax.tree.leaves(masked), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_a_depth_beyond_the_largest_is_reported(core, bind, inputs, starts):
    update = bind(core, *inputs)
    batch = _mixed(update, starts, jnp.full(MAX_DEPTH, MAX_DEPTH + 5))
    assert np.all(np.asarray(batch.stats.loops) == MAX_DEPTH)
    assert np.all(batch.result == RESULTS.max_depth_reached)


def test_nan_is_reported_and_stays_with_its_sample(core, bind, inputs, starts):
    update = bind(core, *inputs)
    depths = jnp.full(MAX_DEPTH, 3)
    clean = _mixed(update, starts, depths)
    batch = _mixed(update, starts.at[1, 0].set(jnp.nan), depths)
    others = np.arange(MAX_DEPTH) != 1
    np.testing.assert_array_equal(batch.result == RESULTS.successful, others)
    np.testing.assert_array_equal(batch.result == RESULTS.nonfinite, ~others)
    np.testing.assert_array_equal(batch.value[others], clean.value[others])
    assert _fixed(update, jnp.full(WIDTH, jnp.nan), 3).result == RESULTS.nonfinite


def test_results_are_sentences(assert_helpful):
    assert str(RESULTS[RESULTS.successful]).endswith(".")
    for result in (RESULTS.max_depth_reached, RESULTS.nonfinite):
        assert_helpful(RESULTS[result])


def test_a_fixed_depth_makes_no_nan_of_its_own(core, bind, inputs, starts):
    update = bind(core, *inputs)
    with jax.debug_nans(True):
        assert np.isfinite(iterate(update, starts[0], FixedDepth(2)).stats.residual)
