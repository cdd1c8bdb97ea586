"""The P-norm: the counterexample that makes it necessary, and the theorem itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from loopwm.stability import weighted


def _jacobian(retention: np.ndarray, g: np.ndarray) -> np.ndarray:
    return np.diag(retention) + (1.0 - retention)[:, None] * g


def _operator_norm(jacobian: np.ndarray, p: np.ndarray) -> float:
    root = np.sqrt(p)
    return float(np.linalg.norm(root[:, None] * jacobian / root[None, :], 2))


def _weights(retention: np.ndarray, gamma: float) -> np.ndarray:
    return np.asarray(weighted.weights(jnp.asarray(retention, jnp.float32), gamma), np.float64)


def test_counterexample_expands_in_the_plain_norm_and_contracts_in_p():
    # DESIGN 4.1: a = (.9, 0), g = .95 swap, so J = [[.9, .1*.95], [.95, 0]] by hand.
    retention, gamma = np.array([0.9, 0.0]), 0.95
    jacobian = _jacobian(retention, gamma * np.array([[0.0, 1.0], [1.0, 0.0]]))
    np.testing.assert_allclose(jacobian, [[0.9, 0.095], [0.95, 0.0]])
    assert np.linalg.norm(jacobian, 2) == pytest.approx(1.31, abs=5e-3)
    # c = (.995, .95), p = (1/(.1*.995), 1/.95).
    p = _weights(retention, gamma)
    np.testing.assert_allclose(p, [1 / 0.0995, 1 / 0.95], rtol=1e-5)
    assert _operator_norm(jacobian, p) <= 0.995
    # A step is enough to see it: x = (1, 0) grows in the plain norm.
    step = jacobian @ np.array([1.0, 0.0])
    assert np.linalg.norm(step) > 1.3
    assert weighted.norm(jnp.asarray(step, jnp.float32), jnp.asarray(p, jnp.float32)) < float(
        0.996 * weighted.norm(jnp.asarray([1.0, 0.0]), jnp.asarray(p, jnp.float32))
    )


def test_weights_that_forget_the_retention_would_not_do():
    # Guards the test above: with p = 1 the same bound is false.
    jacobian = _jacobian(np.array([0.9, 0.0]), 0.95 * np.array([[0.0, 1.0], [1.0, 0.0]]))
    assert _operator_norm(jacobian, np.ones(2)) > 0.995


@given(
    retention=hnp.arrays(np.float64, 4, elements=st.floats(0.001, 0.99)),
    g=hnp.arrays(np.float64, (4, 4), elements=st.floats(-1, 1)),
    gamma=st.floats(0.01, 0.99),
)
def test_any_linear_update_contracts_at_rho_in_the_p_norm(retention, g, gamma):
    size = np.linalg.norm(g, 2)
    if size < 1e-6:
        return
    p = _weights(retention, gamma)
    rate = float(jnp.max(weighted.channel_rates(jnp.asarray(retention, jnp.float32), gamma)))
    norm = _operator_norm(_jacobian(retention, gamma * g / size), p)
    assert norm <= rate * (1 + 1e-5)


@given(st.permutations(range(5)), st.floats(0.1, 0.99), st.integers(0, 2**16))
def test_permutations_are_the_hard_case(order, gamma, seed):
    retention = np.random.default_rng(seed).uniform(0.01, 0.95, size=5)
    jacobian = _jacobian(retention, gamma * np.eye(5)[list(order)])
    rate = np.max(retention + (1 - retention) * gamma)
    assert _operator_norm(jacobian, _weights(retention, gamma)) <= rate * (1 + 1e-5)


def test_the_rate_is_attained():
    # g = gamma * identity: J = diag(c), so nothing smaller than max c would be true.
    retention, gamma = np.array([0.3, 0.7]), 0.8
    jacobian = _jacobian(retention, gamma * np.eye(2))
    assert _operator_norm(jacobian, _weights(retention, gamma)) == pytest.approx(0.94)


def test_norm_and_condition_by_hand():
    x, p = jnp.asarray([3.0, -1.0]), jnp.asarray([4.0, 9.0])
    assert float(weighted.norm(x, p)) == pytest.approx(np.sqrt(4 * 9 + 9 * 1))
    assert float(weighted.condition(p)) == pytest.approx(1.5)
    # kappa is what turns a P statement into a Euclidean one.
    root = np.sqrt(np.asarray(p))
    ratio = np.linalg.norm(x) * root.max() / float(weighted.norm(x, p))
    assert 1.0 <= ratio <= 1.5


def test_norm_does_not_hide_nan():
    assert np.isnan(float(weighted.norm(jnp.asarray([1.0, jnp.nan]), jnp.ones(2))))


def test_norm_has_a_finite_gradient_at_zero():
    p = jnp.asarray([4.0, 9.0])
    np.testing.assert_array_equal(jax.grad(weighted.norm)(jnp.zeros(2), p), np.zeros(2))
    np.testing.assert_allclose(
        jax.grad(weighted.norm)(jnp.asarray([1.0, 0.0]), p), [2.0, 0.0], rtol=1e-6
    )
