"""SoftNorm: into the ball for every input, 1-Lipschitz, and never NaN."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from loopwm.nn import SoftNorm
from loopwm.stability import attack

RADIUS = 2.5
_norm = SoftNorm(RADIUS)
_call = jax.jit(_norm)
_jacobian = jax.jit(jax.jacobian(_norm))


@given(
    hnp.arrays(np.float32, 5, elements=st.floats(-1, 1, width=32, allow_subnormal=False)),
    st.integers(-20, 38),
)
def test_formula_and_ball_for_every_scale(direction, exponent):
    x = (direction.astype(np.float64) * 10.0**exponent).astype(np.float32)
    wide = x.astype(np.float64)
    expected = wide / np.sqrt(1.0 + np.sum(wide**2) / RADIUS**2)
    result = np.asarray(_call(x), np.float64)
    assert np.linalg.norm(result) <= RADIUS * (1 + 1e-6)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale", [1e18, 1e20, 1e30, 3e38])
def test_huge_inputs_land_on_the_sphere_with_a_finite_jacobian(scale):
    x = jnp.asarray([1.0, -0.5, 0.0, 0.25, 1.0]) * scale
    assert float(jnp.linalg.norm(_call(x))) == pytest.approx(RADIUS, rel=1e-5)
    assert np.all(np.isfinite(_jacobian(x)))


def test_jacobian_is_symmetric_positive_and_at_most_one(rng):
    for scale in (0.0, 1e-3, 1.0, 10.0, 1e4):
        jacobian = np.asarray(_jacobian(jnp.asarray(scale * rng.normal(size=5), jnp.float32)))
        np.testing.assert_allclose(jacobian, jacobian.T, atol=1e-6)
        values = np.linalg.eigvalsh(jacobian.astype(np.float64))
        assert -1e-6 <= values.min() and values.max() <= float(_norm.lipschitz()) * (1 + 1e-6)
    np.testing.assert_allclose(_jacobian(jnp.zeros(5)), np.eye(5))


def test_one_lipschitz_under_attack(key):
    result = attack(_norm, jnp.linalg.norm, 5, key=key, starts=12, steps=60)
    assert 0.95 <= result.ratio <= 1 + 1e-4 and float(_norm.lipschitz()) == 1.0
