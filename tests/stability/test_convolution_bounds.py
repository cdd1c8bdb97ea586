"""Operator norms of convolutions against dense matrices built cell by cell."""

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from loopwm.errors import UsageError
from loopwm.stability.convolution import (
    Padding,
    convolution_gram_bound,
    convolution_norm,
    polyphase,
)

CIRCULAR, ZEROS = Padding.CIRCULAR, Padding.ZEROS
# Value and gradient, compiled once for each shape and grid that tests share.
_gram_slope = jax.jit(
    jax.value_and_grad(lambda k, grid, padding: convolution_gram_bound(k, grid, padding).value),
    static_argnums=(1, 2),
)

# Shape of the kernel and grid: even windows, windows larger than the grid, one to three axes.
CASES = [
    ((3, 2, 3), (6,)),
    ((2, 3, 4), (5,)),
    ((2, 2, 5), (2,)),
    ((1, 1, 3), (1,)),
    ((2, 2, 3, 3), (4, 5)),
    ((1, 3, 2, 3), (3, 4)),
    ((2, 1, 1, 3), (3, 6)),
    ((2, 1, 3, 2, 2), (2, 3, 2)),
]


def _dense(kernel, grid, padding, stride=1):
    """Matrix of the convolution, entry by entry from its definition."""
    outputs, inputs, *window = kernel.shape
    matrix = np.zeros((*grid, outputs, *grid, inputs))
    for p in np.ndindex(*grid):
        for k in np.ndindex(*window):
            q = tuple(a + b - (w - 1) // 2 for a, b, w in zip(p, k, window, strict=True))
            if padding is CIRCULAR:
                q = tuple(a % n for a, n in zip(q, grid, strict=True))
            if all(0 <= a < n for a, n in zip(q, grid, strict=True)):
                matrix[(*p, slice(None), *q, slice(None))] += kernel[(..., *k)]
    keep = tuple(slice(None, None, stride) for _ in grid)
    return matrix[keep].reshape(-1, inputs * int(np.prod(grid)))


def _norm(kernel, grid, padding, stride=1):
    return float(np.linalg.norm(_dense(kernel, grid, padding, stride), 2))


def _gram(kernel, grid, padding=ZEROS):
    return float(_gram_slope(jnp.asarray(kernel, jnp.float32), grid, padding)[0])


def _supremum(kernel, points):
    """Norm of the symbol on a fine sampling of all angles: never above the supremum."""
    axes = list(range(2, kernel.ndim))
    symbols = np.moveaxis(np.fft.fftn(kernel, (points,) * len(axes), axes), (0, 1), (-2, -1))
    return float(np.linalg.norm(symbols, 2, axis=(-2, -1)).max())


@pytest.mark.parametrize(("shape", "grid"), CASES)
def test_circular_norm_is_exact(shape, grid, rng):
    for scale in (1e-6, 1.0, 1e6):
        kernel = scale * rng.normal(size=shape)
        exact = _norm(kernel, grid, CIRCULAR)
        bound = float(convolution_norm(kernel, grid, CIRCULAR))
        assert exact <= bound * (1 + 1e-14) and bound <= exact * (1 + 1e-9)


@pytest.mark.parametrize("padding", list(Padding))
@pytest.mark.parametrize(("shape", "grid"), CASES)
def test_every_bound_is_above_the_dense_norm(shape, grid, padding, rng):
    for positive in (False, True):
        kernel = rng.normal(size=shape)
        kernel = np.abs(kernel) if positive else kernel
        exact = _norm(kernel, grid, padding)
        on_grid = float(convolution_norm(kernel, grid, padding))
        everywhere = float(convolution_norm(kernel))
        assert exact <= on_grid * (1 + 1e-14)
        assert on_grid <= everywhere * (1 + 1e-12)


@pytest.mark.parametrize(("shape", "grid"), [CASES[0], CASES[1], CASES[4]])
def test_gram_bound_is_above_the_exact_one_and_close(shape, grid, rng):
    for scale in (1e-3, 1.0, 30.0):
        kernel = (scale * rng.normal(size=shape)).astype(np.float32)
        for size, padding in ((grid, CIRCULAR), (grid, ZEROS), (None, ZEROS)):
            exact = float(convolution_norm(kernel, size, padding))
            assert exact <= _gram(kernel, size, padding) <= exact * 1.01


@given(
    kernel=hnp.arrays(np.float64, (3, 2, 3), elements=st.floats(-1, 1).map(lambda v: round(v, 3))),
    size=st.integers(1, 9),
    padding=st.sampled_from(Padding),
)
def test_bounds_hold_for_any_kernel_and_size(kernel, size, padding):
    exact = _norm(kernel, (size,), padding)
    bound = float(convolution_norm(kernel, (size,), padding))
    everywhere = float(convolution_norm(kernel))
    assert exact <= bound + 1e-14 and bound <= everywhere + 1e-14
    assert exact <= _gram(kernel, None) + 1e-6
    if padding is CIRCULAR:
        assert bound <= exact * (1 + 1e-9) + 1e-12
    assert everywhere <= _supremum(kernel, 512) * 1.006 + 1e-12


@pytest.mark.parametrize(
    ("shape", "grid", "mean", "worst"),
    [((4, 4, 3), (8,), 1.01, 1.03), ((3, 3, 3, 3), (6, 6), 1.06, 1.12)],
)
def test_zero_padded_bound_is_close(shape, grid, mean, worst, rng):
    # Measured: 1-D mean 1.004, worst 1.019; 2-D 8x8 mean 1.02 to 1.03, worst 1.05.
    ratios, loose = [], []
    for _ in range(10):
        kernel = rng.normal(size=shape)
        exact = _norm(kernel, grid, ZEROS)
        ratios.append(float(convolution_norm(kernel, grid)) / exact)
        loose.append(float(convolution_norm(kernel)) / exact)
    assert 1.0 <= min(ratios) and max(ratios) <= worst and np.mean(ratios) <= mean
    # Knowing the grid is worth something: the bound for every size is looser on this one.
    assert np.mean(loose) > np.mean(ratios) + 0.005


@pytest.mark.parametrize("size", [1, 2, 5, 8])
def test_zero_padded_bound_of_a_box_is_exact(size):
    # Eigenvalues of the tridiagonal matrix of ones: 1 + 2 cos(pi j / (n + 1)).
    expected = 1.0 + 2.0 * np.cos(np.pi / (size + 1))
    assert float(convolution_norm(np.ones((1, 1, 3)), (size,))) == pytest.approx(expected)
    assert float(convolution_norm(np.ones((1, 1, 3)), (size,), CIRCULAR)) == pytest.approx(3.0)


@pytest.mark.parametrize("shape", [(2, 2, 2), (2, 2, 5), (2, 3, 3, 3), (1, 2, 2, 4)])
def test_bound_for_every_grid_is_above_the_supremum_and_within_its_proven_factor(shape, rng):
    axes = len(shape) - 2
    for _ in range(5):
        kernel = rng.normal(size=shape)
        supremum = _supremum(kernel, 4096 if axes == 1 else 256)
        for oversampling in (2, 4, 16):
            bound = float(convolution_norm(kernel, oversampling=oversampling))
            factor = np.cos(np.pi / (2 * oversampling)) ** -axes
            assert supremum <= bound <= supremum * factor * (1 + 1e-3)


def test_the_correction_between_samples_is_needed_and_attained():
    # M(t) = I + R e^{it} with R a quarter turn, whose eigenvalues are e^{+-i pi/2}: the norm is
    # 2 |cos(t/2 +- pi/4)|, so 2 at its peak, and sqrt(2) at both samples 0 and pi.
    quarter = np.array([[0.0, -1.0], [1.0, 0.0]])
    kernel = np.stack([np.eye(2), quarter], axis=-1)
    assert float(convolution_norm(kernel, (2,), CIRCULAR)) == pytest.approx(np.sqrt(2.0))
    assert _supremum(kernel, 512) == pytest.approx(2.0)
    assert float(convolution_norm(kernel, oversampling=2)) == pytest.approx(2.0, rel=1e-12)


def test_one_tap_is_the_norm_of_its_matrix(rng):
    matrix = rng.normal(size=(4, 3))
    exact = np.linalg.norm(matrix, 2)
    for kernel in (matrix[..., None], matrix[..., None, None]):
        for grid in (None, (5,) * (kernel.ndim - 2)):
            assert float(convolution_norm(kernel, grid)) == pytest.approx(exact, rel=1e-12)


def test_reshaped_kernel_is_no_bound():
    # The mistake that this module is there to avoid: the box of 9 ones has norm 9 and not 3.
    kernel = np.ones((1, 1, 3, 3))
    assert np.linalg.norm(kernel.reshape(1, -1), 2) == pytest.approx(3.0)
    assert float(convolution_norm(kernel, (6, 6), CIRCULAR)) == pytest.approx(9.0)


def test_groups_are_convolved_each_by_itself(rng):
    kernel = rng.normal(size=(4, 2, 3))
    full = np.zeros((4, 4, 3))
    full[:2, :2], full[2:, 2:] = kernel[:2], kernel[2:]
    for grid, padding in (((5,), CIRCULAR), ((5,), ZEROS), (None, ZEROS)):
        whole = float(convolution_norm(full, grid, padding))
        split = float(convolution_norm(kernel, grid, padding, groups=2))
        if padding is CIRCULAR or grid is None:
            assert split == pytest.approx(whole, rel=1e-9)
        assert split >= _norm(full, (5,), padding) * (1 - 1e-14)


@pytest.mark.parametrize(
    ("shape", "stride", "dilation"),
    [
        ((2, 2, 3), (2,), (1,)),
        ((2, 1, 2), (3,), (1,)),
        ((1, 2, 3), (2,), (2,)),
        ((1, 2, 3, 3), (2, 1), (1, 1)),
        ((2, 1, 3, 2), (2, 3), (1, 2)),
    ],
)
def test_polyphase_kernel_bounds_the_strided_convolution_and_is_its_limit(
    shape, stride, dilation, rng
):
    kernel = rng.normal(size=shape)
    bound = float(convolution_norm(polyphase(kernel, stride, dilation)))
    spread = np.zeros(
        (*shape[:2], *(d * (w - 1) + 1 for w, d in zip(shape[2:], dilation, strict=True)))
    )
    spread[(slice(None), slice(None), *(slice(None, None, d) for d in dilation))] = kernel
    grid = (24,) if len(stride) == 1 else (9, 8)
    rows = _dense(spread, grid, ZEROS).reshape(*grid, shape[0], -1)
    rows = rows[tuple(slice(None, None, s) for s in stride)]
    exact = np.linalg.norm(rows.reshape(-1, rows.shape[-1]), 2)
    assert exact <= bound <= exact * (1.03 if len(stride) == 1 else 1.25)
    assert bound <= float(convolution_norm(spread)) * 1.01  # dropping outputs cannot add


def test_norms_round_up(rng):
    # Integer kernels whose circular norm is the integer sum of entries.
    for taps in range(2, 9):
        kernel = rng.integers(1, 9, size=(1, 1, taps)).astype(np.float32)
        bound = float(convolution_norm(kernel, (taps + 3,), CIRCULAR))
        assert kernel.sum() <= bound <= kernel.sum() * (1 + 1e-12)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
@pytest.mark.parametrize("grid", [(6,), None])
def test_gram_bound_and_gradient_survive_extreme_scales(scale, grid, rng):
    kernel = (scale * rng.normal(size=(3, 2, 3))).astype(np.float32)
    bound, gradient = _gram_slope(jnp.asarray(kernel), grid, ZEROS)
    exact = float(convolution_norm(kernel, grid))
    assert exact <= float(bound) <= exact * 1.01
    # Euler: the bound is homogeneous of degree 1, so <gradient, W> is the bound itself.
    product = np.sum(np.asarray(gradient, np.float64) * kernel.astype(np.float64))
    np.testing.assert_allclose(product, float(bound), rtol=1e-3)


@pytest.mark.parametrize(("grid", "padding"), [((6,), CIRCULAR), ((6,), ZEROS), (None, ZEROS)])
def test_gram_bound_of_zero_is_zero_with_zero_gradient(grid, padding):
    bound, gradient = _gram_slope(jnp.zeros((3, 2, 3)), grid, padding)
    assert float(bound) == 0.0
    np.testing.assert_array_equal(gradient, np.zeros((3, 2, 3)))


def test_gram_bound_of_a_kernel_that_cancels_on_its_grid():
    # On one cell all taps fall together: the norm is 0 although the kernel is not.
    kernel = jnp.zeros((3, 2, 3)).at[0, 0].set(jnp.asarray([1.0, -2.0, 1.0]))
    assert 0.0 <= _gram(kernel, (1,), CIRCULAR) < 1e-4
    assert float(convolution_norm(np.asarray(kernel), (1,), CIRCULAR)) < 1e-12
    # A frequency with zero gain beside others with gain does no harm to the gradient.
    gradient = _gram_slope(kernel, (6,), CIRCULAR)[1]
    np.testing.assert_allclose(gradient[0, 0], [1.0, -1.0, 1.0], rtol=1e-3)


def test_gram_bound_does_not_hide_nan():
    one = jnp.ones((3, 2, 3)).at[0, 1, 2].set(jnp.nan)
    for kernel in (jnp.full((3, 2, 3), jnp.nan), one):
        for grid, padding in (((6,), CIRCULAR), ((6,), ZEROS), (None, ZEROS)):
            assert np.isnan(_gram(kernel, grid, padding))


def test_gram_bound_is_loosest_for_equal_singular_values():
    kernel = jnp.zeros((3, 2, 3)).at[:2, :, 1].set(jnp.eye(2))
    assert 1.0 <= _gram(kernel, (6,), CIRCULAR) <= 2 ** (1 / 128) * (1 + 2e-4)


@pytest.mark.parametrize("case", [((2, 3, 3), (6,), CIRCULAR), ((3, 2, 3, 3), None, ZEROS)])
def test_gram_bound_gradient_matches_finite_differences(case, rng):
    shape, grid, padding = case
    kernel, direction = rng.normal(size=shape), rng.normal(size=shape)
    with jax.enable_x64(True):
        moved = jax.jit(
            jax.value_and_grad(
                lambda t: (
                    convolution_gram_bound(
                        jnp.asarray(kernel) + t * jnp.asarray(direction), grid, padding
                    ).value
                )
            )
        )
        analytic = float(moved(0.0)[1])
        numeric = (float(moved(1e-5)[0]) - float(moved(-1e-5)[0])) / 2e-5
    np.testing.assert_allclose(analytic, numeric, rtol=1e-6)


def _dot_precisions(jaxpr):
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            found.append(equation.params["precision"])
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            found += _dot_precisions(inner)
    return found


def test_gram_bound_multiplies_in_full_precision_on_every_device():
    closed = jax.make_jaxpr(lambda k: convolution_gram_bound(k).value)(jnp.ones((2, 2, 3)))
    precisions = _dot_precisions(closed.jaxpr)
    highest = jax.lax.Precision.HIGHEST
    assert len(precisions) >= 4 and all(p == (highest, highest) for p in precisions)


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((3, 2), {}),
        ((3, 0, 3), {}),
        ((2, 2, 3), {"grid": (4, 4)}),
        ((2, 2, 3), {"grid": (0,)}),
        ((2, 2, 3), {"oversampling": 1}),
        ((2, 2, 3), {"groups": 3}),
    ],
)
def test_refuses_what_is_no_convolution(shape, options, assert_helpful):
    with pytest.raises(UsageError) as raised:
        convolution_norm(np.ones(shape), **options)
    assert_helpful(raised)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_refuses_entries_that_are_not_finite(bad, assert_helpful):
    kernel = np.ones((1, 1, 3))
    kernel[0, 0, 1] = bad
    with pytest.raises(UsageError, match="NaN") as raised:
        convolution_norm(kernel)
    assert_helpful(raised)
