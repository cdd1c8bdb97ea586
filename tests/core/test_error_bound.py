"""The certified error bound against the true distance to the fixed point, in float64."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopwm.core import FixedDepth, SampledDepth, iterate

WIDTH, MAX_DEPTH = 8, 400


@eqx.filter_jit
def _solve(update, h, depth):
    return iterate(update, h, SampledDepth(depth, MAX_DEPTH))


def _distance(twin, h) -> float:
    return twin.norm(np.asarray(h, np.float64) - twin.fixed_point())


@pytest.mark.parametrize("name", ["fresh", "block x100", "prelude x1e6", "all loud", "quiet"])
def test_true_error_never_exceeds_the_bound(name, perturbed, bind, reference, rng):
    for _ in range(6):
        z = jnp.asarray(rng.normal(size=5) * 3, jnp.float32)
        u = jnp.asarray(rng.normal(size=2), jnp.float32)
        update = bind(perturbed[name], z, u)
        twin = reference(update)
        fixed = twin.fixed_point()
        for depth in (1, 2, 4, 16, 64, 400):
            far = depth > 2
            h = jnp.asarray(rng.normal(size=WIDTH) * (100.0 if far else 0.0), jnp.float32)
            solution = _solve(update, h, jnp.asarray(depth))
            error = twin.norm(np.asarray(solution.value, np.float64) - fixed)
            assert error <= float(solution.stats.error_bound), (depth, error)


@given(
    seed=st.integers(0, 2**16),
    log_scale=st.floats(-6, 6),
    log_injection=st.floats(-8, 5),
    depth=st.integers(1, 60),
)
def test_bound_holds_for_updates_from_hypothesis(
    seed, log_scale, log_injection, depth, core, bind, reference
):
    rng = np.random.default_rng(seed)
    update = bind(core, jnp.zeros(5), jnp.zeros(2))
    update = eqx.tree_at(
        lambda u: (u.injected, u.retention),
        update,
        (
            tuple(
                jnp.asarray(rng.normal(size=WIDTH) * 10.0**log_injection, jnp.float32)
                for _ in update.injected
            ),
            jnp.asarray(rng.uniform(0.05, 0.6, size=WIDTH), jnp.float32),
        ),
    )
    h = jnp.asarray(rng.normal(size=WIDTH) * 10.0**log_scale, jnp.float32)
    solution = _solve(update, h, jnp.asarray(depth))
    assert _distance(reference(update), solution.value) <= float(solution.stats.error_bound)


@pytest.mark.parametrize("size", [1e-15, 1e-19, 1e-21])
def test_bound_holds_where_squares_underflow(size, core, bind, reference):
    update = bind(core, jnp.zeros(5), jnp.zeros(2))
    injected = tuple(jnp.full(WIDTH, -size).at[0].set(size) for _ in update.injected)
    update = eqx.tree_at(lambda u: u.injected, update, injected)
    solution = _solve(update, jnp.zeros(WIDTH), jnp.asarray(2))
    error = _distance(reference(update), solution.value)
    assert 0 < error <= float(solution.stats.error_bound)


def test_bound_is_useful(core, bind, inputs, reference):
    # Not vacuous: it falls with depth to the rounding floor, and stays near the truth.
    update = bind(core, *inputs)
    twin, bounds = reference(update), []
    for depth in (1, 50, 100, 400):
        solution = _solve(update, jnp.full(WIDTH, 50.0), jnp.asarray(depth))
        bounds.append(float(solution.stats.error_bound))
    assert bounds[0] > bounds[1] > bounds[2] > bounds[3]
    scale = twin.norm(twin.fixed_point())
    assert bounds[3] <= 1e-2 * max(scale, 1.0)
    one = _solve(update, jnp.full(WIDTH, 50.0), jnp.asarray(1))
    assert bounds[0] <= 200 * _distance(twin, one.value)


def test_bound_by_hand(core, bind, inputs):
    update = bind(core, *inputs)
    rate = float(update.rate())
    value = update.error_bound(jnp.asarray(0.3), jnp.asarray(0.01))
    assert float(value) == pytest.approx((rate * 0.3 + 0.01) / (1 - rate), rel=1e-4)


def test_a_residual_that_rounds_to_zero_keeps_a_positive_bound(core, bind, inputs):
    update = bind(core, *inputs)
    solution = _solve(update, jnp.zeros(WIDTH), jnp.asarray(MAX_DEPTH))
    assert float(solution.stats.error_bound) > 0
    assert float(solution.stats.residual) < 1e-5


def test_statistics_do_not_disturb_the_gradient(core, bind, inputs):
    # At a fixed point the residual is 0, where a square root would have an infinite slope.
    update = bind(core, *inputs)

    def loss(h):
        solution = iterate(update, h, FixedDepth(300))
        return jnp.sum(solution.value) + solution.stats.residual

    assert np.all(np.isfinite(jax.jit(jax.grad(loss))(jnp.zeros(WIDTH))))
