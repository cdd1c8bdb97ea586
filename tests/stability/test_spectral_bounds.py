"""Upper bounds of the spectral norm: above the norm at every scale, and close to it."""

import jax
import jax.extend
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from loopwm.errors import UsageError
from loopwm.stability import exact_norm, gram_bound


def _gram(matrix, iterations=6):
    return gram_bound(matrix, iterations).value


_jitted = jax.jit(_gram)


def _loosest(matrix: np.ndarray) -> float:
    """Largest possible ratio of bound to norm: all singular values equal, 2^-(n+1) = 1/128."""
    return min(matrix.shape) ** (1 / 128) * (1 + 1e-4)


@pytest.mark.parametrize("shape", [(8, 8), (16, 5), (5, 16), (1, 7), (7, 1), (48, 48)])
def test_gram_bound_is_above_and_within_one_percent_for_gaussian_matrices(shape, rng):
    for scale in (1e-3, 1.0, 30.0):
        matrix = (scale * rng.normal(size=shape)).astype(np.float32)
        ratio = float(_jitted(matrix)) / np.linalg.norm(matrix.astype(np.float64), 2)
        assert 1.0 <= ratio <= 1.01


_entries = hnp.arrays(
    np.float32, (6, 4), elements=st.floats(-1, 1, width=32, allow_subnormal=False)
)


@given(matrix=_entries, exponent=st.integers(-12, 12))
def test_gram_bound_is_above_for_any_matrix_and_scale(matrix, exponent):
    matrix = (matrix * np.float32(10.0**exponent)).astype(np.float32)
    if np.abs(matrix).max() < 1e-30:  # below the smallest normal numbers there is no precision
        return
    exact = np.linalg.norm(matrix.astype(np.float64), 2)
    assert exact <= float(_jitted(matrix)) <= exact * _loosest(matrix)


@pytest.mark.parametrize("scale", [1e-30, 1e-22, 1e-12, 1e12, 1e20, 1e30])
def test_gram_bound_and_gradient_survive_extreme_scales(scale, rng):
    matrix = (rng.normal(size=(6, 4)) * scale).astype(np.float32)
    bound, gradient = jax.jit(jax.value_and_grad(_gram))(matrix)
    exact = np.linalg.norm(matrix.astype(np.float64), 2)
    assert exact <= float(bound) <= exact * _loosest(matrix)
    # Euler: the bound is homogeneous of degree 1, so <gradient, W> is the bound itself.
    product = np.sum(np.asarray(gradient, np.float64) * matrix.astype(np.float64))
    np.testing.assert_allclose(product, float(bound), rtol=1e-4)


def test_gram_bound_is_tight_for_rank_one(rng):
    matrix = np.outer(rng.normal(size=6), rng.normal(size=4)).astype(np.float32)
    exact = np.linalg.norm(matrix.astype(np.float64), 2)
    assert exact <= float(_jitted(matrix)) <= exact * (1 + 1e-4)


def test_gram_bound_of_equal_singular_values_is_its_loosest_case():
    assert 1.0 <= float(_jitted(jnp.eye(6, 4))) <= _loosest(np.eye(6, 4))


def test_gram_bound_of_other_types_is_that_of_their_numbers(rng):
    weight = rng.normal(size=(50, 50))
    for narrow in (jnp.bfloat16, jnp.float16):
        held = jnp.asarray(weight, narrow)
        norm = np.linalg.norm(np.asarray(held, np.float64), 2)
        assert norm <= gram_bound(held).value <= 1.01 * norm
    norm = np.linalg.norm(weight, 2)
    assert norm <= gram_bound(weight).value <= 1.01 * norm


def test_more_gram_steps_are_tighter(rng):
    matrix = jnp.asarray(rng.normal(size=(6, 4)), jnp.float32)
    bounds = [float(gram_bound(matrix, n)) for n in (1, 3, 6)]
    assert bounds[0] > bounds[1] > bounds[2] >= np.linalg.norm(matrix, 2)
    # One step is ||W^T W||_F^(1/2), which has a closed form.
    gram = np.asarray(matrix).T @ np.asarray(matrix)
    np.testing.assert_allclose(bounds[0], np.sqrt(np.linalg.norm(gram)), rtol=1e-4)


def test_gram_bound_of_zero_is_zero_with_zero_gradient():
    bound, gradient = jax.jit(jax.value_and_grad(_gram))(jnp.zeros((6, 4)))
    assert float(bound) == 0.0
    np.testing.assert_array_equal(gradient, np.zeros((6, 4)))


@pytest.mark.parametrize("shape", [(16384, 2), (2, 16384), (65536, 2)])
def test_gram_bound_covers_the_rounding_of_long_sums(shape, rng):
    # Equal terms are rounded in the same direction, so that the sum falls short of the true one.
    for entry in rng.uniform(1, 2, size=8).astype(np.float32):
        exact = float(entry) * np.sqrt(shape[0] * shape[1])
        assert exact <= float(_jitted(np.full(shape, entry))) <= exact * (1 + 4e-3)


def test_complex_matrices_are_refused(assert_helpful):
    for norm in (gram_bound, exact_norm):
        with pytest.raises(UsageError, match="complex") as raised:
            norm.__wrapped__(np.eye(3) * 2j)  # past the check of annotations in tests
        assert_helpful(raised)


def test_gram_bound_does_not_hide_nan():
    assert np.isnan(float(_jitted(jnp.full((6, 4), jnp.nan))))


@pytest.mark.parametrize("shape", [(6, 4), (4, 6)])
def test_gram_bound_gradient_matches_finite_differences(shape, rng):
    matrix, direction = rng.normal(size=shape), rng.normal(size=shape)
    with jax.enable_x64(True):
        moved = jax.jit(
            jax.value_and_grad(lambda t: _gram(jnp.asarray(matrix) + t * jnp.asarray(direction)))
        )
        analytic = float(moved(0.0)[1])
        numeric = (float(moved(1e-5)[0]) - float(moved(-1e-5)[0])) / 2e-5
    np.testing.assert_allclose(analytic, numeric, rtol=1e-6)


def _dot_precisions(jaxpr) -> list[object]:
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            found.append(equation.params["precision"])
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            found += _dot_precisions(inner)
    return found


def test_gram_bound_multiplies_in_full_precision_on_every_device():
    # The default on GPU is TF32 and on TPU bf16: the margin of 1e-5 would not cover either.
    precisions = _dot_precisions(jax.make_jaxpr(gram_bound)(jnp.ones((6, 4))).jaxpr)
    highest = jax.lax.Precision.HIGHEST
    assert len(precisions) >= 2 and all(p == (highest, highest) for p in precisions)


def test_exact_norm_rounds_up():
    # ||1_{n x m}||_2 = sqrt(n m): the raw singular value falls short of it about one time in two.
    shapes = [(n, m) for n in range(1, 15) for m in range(1, 15)]
    raw = [np.linalg.svd(np.ones(s), compute_uv=False)[0] ** 2 < s[0] * s[1] for s in shapes]
    assert any(raw)
    for shape in shapes:
        bound = float(exact_norm(np.ones(shape, np.float32)))
        assert np.longdouble(bound) ** 2 >= shape[0] * shape[1]
        assert bound <= np.sqrt(shape[0] * shape[1]) * (1 + 1e-12)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_exact_norm_of_a_known_matrix(scale, rng):
    # Orthogonal factors around chosen singular values.
    left = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    right = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    matrix = scale * left[:, :3] @ np.diag([0.5, 7.0, 2.0]) @ right
    np.testing.assert_allclose(float(exact_norm(matrix)), 7.0 * scale, rtol=1e-12)


def test_exact_norm_of_zero_and_empty_is_zero():
    assert float(exact_norm(np.zeros((3, 2)))) == 0.0
    assert float(exact_norm(np.zeros((0, 2)))) == 0.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_exact_norm_refuses_nonfinite_entries(bad, assert_helpful):
    matrix = np.eye(3)
    matrix[1, 2] = bad
    with pytest.raises(ValueError) as raised:
        exact_norm(matrix)
    assert_helpful(raised)


@pytest.mark.parametrize("entry", [1.3e-38, 1.6e38, 2.5e38])
def test_gram_bound_of_numbers_at_the_ends_of_float32(entry):
    assert entry * 0.999 <= float(_jitted(np.full((1, 1), entry, np.float32))) <= entry * 1.001


@pytest.mark.parametrize("bound", [exact_norm, gram_bound])
def test_only_matrices_have_a_spectral_norm(bound, assert_helpful):
    jaxtyping.config.update("jaxtyping_disable", True)  # as users run it
    try:
        for shape in ((3,), (2, 3, 3)):
            with pytest.raises(UsageError, match="no matrix") as raised:
                bound(np.ones(shape, np.float32))
            assert_helpful(raised.value)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_an_empty_matrix_has_norm_0(shape):
    assert float(exact_norm(np.ones(shape))) == 0.0
    assert float(gram_bound(jnp.ones(shape))) == 0.0
