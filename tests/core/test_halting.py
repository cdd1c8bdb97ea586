"""Halting rules: they stop at the right loop, and a finished sample stays as it is."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from loopwm.core import (
    RESULTS,
    CertifiedHalting,
    ContractiveUpdate,
    FixedDepth,
    ResidualHalting,
    iterate,
)

WIDTH = 8


@eqx.filter_jit
def _solve(update, h, rule):
    return iterate(update, h, rule)


@eqx.filter_jit
def _solve_batch(update, starts, rule):
    return jax.vmap(lambda h: iterate(update, h, rule))(starts)


@eqx.filter_jit
def _trajectory(update, h, depth):
    """States, residuals and error bounds after 1..depth loops."""

    def body(state, _):
        new = update(state)
        residual = update.norm(new - state)
        return new, (new, residual, update.error_bound(residual, update.rounding(state)))

    return jax.lax.scan(body, h, None, depth)[1]


@pytest.fixture
def update(core, bind, inputs):
    return bind(core, *inputs)


@pytest.mark.parametrize("rule_type, series", [(ResidualHalting, 1), (CertifiedHalting, 2)])
def test_stops_at_the_first_loop_that_meets_the_tolerance(rule_type, series, update):
    start = jnp.full(WIDTH, 3.0)
    trajectory = _trajectory(update, start, 40)
    measured = np.asarray(trajectory[series])
    for loop in (1, 12):
        # Between two neighbouring values, so that rounding cannot decide.
        tolerance = float(np.sqrt(measured[loop - 1] * measured[loop - 2])) if loop > 1 else 1e6
        assert loop == 1 or measured[loop - 1] < tolerance < measured[loop - 2]
        solution = _solve(update, start, rule_type(tolerance, 64))
        assert int(solution.stats.loops) == loop
        assert solution.result == RESULTS.successful
        np.testing.assert_allclose(solution.value, trajectory[0][loop - 1], rtol=1e-5, atol=1e-6)
        observed = (solution.stats.residual, solution.stats.error_bound)[series - 1]
        np.testing.assert_allclose(observed, measured[loop - 1], rtol=1e-3)


def test_a_certified_stop_is_later_than_a_residual_stop(update):
    start = jnp.full(WIDTH, 3.0)
    residual = _solve(update, start, ResidualHalting(1e-2, 256))
    certified = _solve(update, start, CertifiedHalting(1e-2, 256))
    assert int(certified.stats.loops) > int(residual.stats.loops)
    assert float(certified.stats.error_bound) <= 1e-2 < float(residual.stats.error_bound)


@pytest.mark.parametrize("rule_type", [ResidualHalting, CertifiedHalting])
def test_finished_samples_freeze_in_a_batch(rule_type, update, rng):
    near = _solve(update, jnp.zeros(WIDTH), FixedDepth(40)).value
    scale = jnp.asarray([0.0, 0.1, 1.0, 100.0])[:, None]
    starts = near[None] + scale * jnp.asarray(rng.normal(size=(4, WIDTH)), jnp.float32)
    rule = rule_type(1e-2, 600)
    batch = _solve_batch(update, starts, rule)
    loops = np.asarray(batch.stats.loops)
    assert loops[0] < loops[1] < loops[2] < loops[3]
    assert np.all(batch.result == RESULTS.successful)
    for i in range(4):
        # The value is that of the reported loop, however long the others went on.
        states, *measured = _trajectory(update, starts[i], 600)
        np.testing.assert_allclose(batch.value[i], states[loops[i] - 1], rtol=1e-4, atol=1e-5)
        series = np.asarray(measured[rule_type is CertifiedHalting])
        assert series[loops[i] - 1] <= 1e-2 * 1.01
        assert np.all(series[: loops[i] - 1] > 1e-2 * 0.99)


def test_the_largest_depth_stops_an_unreachable_tolerance(update):
    solution = _solve(update, jnp.full(WIDTH, 3.0), CertifiedHalting(1e-12, 20))
    assert int(solution.stats.loops) == 20
    assert solution.result == RESULTS.max_depth_reached


def test_nan_ends_the_loop_at_once_as_nonfinite(update):
    # Waiting for a NaN to converge would cost the whole batch the largest depth.
    for rule in (ResidualHalting(1e-3, 64), CertifiedHalting(1e-3, 64)):
        solution = _solve(update, jnp.full(WIDTH, jnp.nan), rule)
        assert solution.result == RESULTS.nonfinite
        assert int(solution.stats.loops) <= 1
        assert np.isnan(float(solution.stats.error_bound))


def test_an_uncertified_update_never_halts_on_its_certificate(update):
    uncertified = ContractiveUpdate(update.layers, update.injected, update.retention, gamma=1.0)
    solution = _solve(uncertified, jnp.full(WIDTH, 3.0), CertifiedHalting(1e3, 20))
    assert np.isinf(float(solution.stats.error_bound))
    assert solution.result == RESULTS.max_depth_reached
