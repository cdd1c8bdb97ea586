"""Convolutional layers: dense Jacobians and an adversary on every grid, for any weights."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from loopwm.errors import UsageError
from loopwm.nn import resolve
from loopwm.nn.convolution import CappedConvolution, ConvConvexPotential, ConvolutionCap
from loopwm.stability import attack
from loopwm.stability.convolution import Padding, convolution_norm

_resolved = eqx.filter_jit(resolve)
SQRT2 = float(np.sqrt(2.0))
CIRCULAR, ZEROS = Padding.CIRCULAR, Padding.ZEROS
CHANNELS, HIDDEN, INPUTS = 2, 3, 2

# Padding, window, the grid that is certified (None for all) and the grids that are tried.
LAYERS = {
    "line": (ZEROS, (3,), None, [(4,), (9,)]),
    "ring": (CIRCULAR, (3,), None, [(4,)]),
    "ring of 6": (CIRCULAR, (4,), (6,), [(6,)]),
    "plane": (ZEROS, (3, 3), None, [(3, 4), (5, 4)]),
    "board": (ZEROS, (3, 2), (3, 4), [(3, 4)]),
}


@pytest.fixture(scope="module")
def layers(filled):
    """One layer of each kind, with a cap at work."""

    def build(name):
        padding, window, grid, _ = LAYERS[name]

        def make(key):
            return ConvConvexPotential(
                CHANNELS, HIDDEN, INPUTS, window, padding=padding, grid=grid, key=key
            )

        return filled(make)

    return {name: build(name) for name in LAYERS}


def _with_free(layer, free):
    return eqx.tree_at(lambda x: x.weight.free, layer, jnp.asarray(free, jnp.float32))


def _families(shape):
    rng = np.random.default_rng(1)
    gaussian = rng.normal(size=shape)
    steep = 10.0 ** np.linspace(-9, 9, gaussian.size).reshape(shape)
    return {
        "gaussian": gaussian,
        "huge": 1e25 * gaussian,
        "tiny": 1e-25 * gaussian,
        "all equal": np.full(shape, 7.0),
        "badly scaled": gaussian * steep,
        "checkerboard": 5.0 * (-1.0) ** np.indices(shape).sum(axis=0),
        "zero": np.zeros(shape),
    }


FAMILIES = tuple(_families((1, 1, 1)))


def _points(rng, shape, count=24):
    """Random states, near the origin and far from it."""
    scale = 10.0 ** rng.uniform(-3, 3, size=(count, *(1 for _ in shape)))
    return jnp.asarray(scale * rng.normal(size=(count, *shape)), jnp.float32)


@eqx.filter_jit
def _jacobians(layer, states, injected):
    return jax.vmap(jax.jacobian(layer))(states, injected)


@eqx.filter_jit
def _inject(layer, e):
    return layer.inject(e)


@eqx.filter_jit
def _call(layer, *arguments):
    return layer(*arguments)


def _matrices(layer, grid, rng, count=24):
    """Jacobians in y at many states and injections, shape (count, cells · channels, same)."""
    states = _points(rng, (*grid, CHANNELS), count)
    injected = _points(rng, (*grid, HIDDEN), count)
    jacobians = np.asarray(_jacobians(layer, states, injected), np.float64)
    size = int(np.prod(grid)) * CHANNELS
    assert np.all(np.isfinite(jacobians))
    return jacobians.reshape(count, size, size)


def _worst(matrices):
    return float(np.linalg.norm(matrices, 2, axis=(1, 2)).max())


def _dense(kernel, grid, padding):
    """Matrix of the convolution, entry by entry from its definition; channels last."""
    outputs, inputs, *window = kernel.shape
    matrix = np.zeros((*grid, outputs, *grid, inputs))
    for p in np.ndindex(*grid):
        for k in np.ndindex(*window):
            q = tuple(a + b - (w - 1) // 2 for a, b, w in zip(p, k, window, strict=True))
            if padding is CIRCULAR:
                q = tuple(a % n for a, n in zip(q, grid, strict=True))
            if all(0 <= a < n for a, n in zip(q, grid, strict=True)):
                matrix[(*p, slice(None), *q, slice(None))] += kernel[(..., *k)]
    cells = int(np.prod(grid))
    return matrix.reshape(cells * outputs, cells * inputs)


def _value(layer):
    return np.asarray(_resolved(layer).weight, np.float64)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", LAYERS)
def test_layer_is_one_lipschitz_for_any_weights_on_every_certified_grid(name, family, layers, rng):
    layer = layers[name]
    layer = _resolved(_with_free(layer, _families(layer.weight.free.shape)[family]))
    assert float(layer.lipschitz()) == 1.0
    for grid in LAYERS[name][3]:
        matrices = _matrices(layer, grid, rng)
        assert _worst(matrices) <= 1 + 1e-5
        # I - S'DS: symmetric, so the second convolution really is the adjoint of the first.
        np.testing.assert_allclose(matrices, np.swapaxes(matrices, 1, 2), atol=1e-5)
        if family == "zero":
            np.testing.assert_array_equal(matrices[0], np.eye(matrices.shape[-1]))


@given(
    free=hnp.arrays(
        np.float32,
        (HIDDEN, CHANNELS, 3),
        elements=st.floats(-1e3, 1e3, width=32, allow_subnormal=False),
    ),
    name=st.sampled_from(["line", "ring"]),
    seed=st.integers(0, 2**16),
)
def test_layer_is_one_lipschitz_for_weights_from_hypothesis(free, name, seed, layers):
    layer = _resolved(_with_free(layers[name], free))
    assert float(layer.lipschitz()) == 1.0
    assert _worst(_matrices(layer, (4,), np.random.default_rng(seed))) <= 1 + 1e-5


def test_layer_survives_the_adversary(layers, key):
    name = "plane"
    layer = layers[name]
    layer = _resolved(_with_free(layer, 100.0 * layer.weight.free))
    grid = LAYERS[name][3][0]
    injected = _inject(layer, jnp.ones((*grid, INPUTS)))
    size = int(np.prod(grid)) * CHANNELS

    def update(y):
        return layer(y.reshape(*grid, CHANNELS), injected).reshape(-1)

    result = attack(update, jnp.linalg.norm, size, key=key, starts=8, steps=40)
    assert 0.9 <= result.ratio <= 1 + 1e-4


@pytest.mark.parametrize("name", LAYERS)
def test_layer_by_hand(name, layers, rng):
    padding, _, _, grids = LAYERS[name]
    layer, grid = layers[name], grids[0]
    y, e = rng.normal(size=(*grid, CHANNELS)), rng.normal(size=(*grid, INPUTS))
    bias = np.tile(np.asarray(layer.bias, np.float64), int(np.prod(grid)))
    s = _dense(_value(layer), grid, padding)
    u = _dense(np.asarray(layer.injection, np.float64), grid, padding)
    injected = u @ e.ravel() + bias
    result = _inject(layer, jnp.asarray(e, jnp.float32))
    np.testing.assert_allclose(np.asarray(result).ravel(), injected, atol=1e-5)
    expected = y.ravel() - s.T @ np.maximum(s @ y.ravel() + injected, 0.0)
    result = _call(_resolved(layer), jnp.asarray(y, jnp.float32), result)
    np.testing.assert_allclose(np.asarray(result).ravel(), expected, atol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_layer_uses_most_of_its_cap(name, layers):
    padding, _, certified, grids = LAYERS[name]
    layer = layers[name]
    free = 50.0 * layer.weight.free
    kernel = _value(_with_free(layer, free))
    norms = [np.linalg.norm(_dense(kernel, grid, padding), 2) for grid in [*grids]]
    assert max(norms) <= SQRT2
    if padding is CIRCULAR and certified is not None:
        assert max(norms) >= 0.99 * SQRT2  # exact but for the Gram bound
    # On the infinite grid the cap is used up, but for the correction between samples.
    if certified is None:
        assert float(convolution_norm(kernel, oversampling=64)) >= 0.98 * SQRT2
    # The cap keeps the direction.
    ratio = kernel / np.asarray(free, np.float64)
    np.testing.assert_allclose(ratio, ratio.flat[0], rtol=1e-5)


def test_kernel_inside_the_cap_is_left_alone(rng):
    free = rng.normal(size=(2, 2, 3)).astype(np.float32)
    free *= 0.9 / float(convolution_norm(free))
    capped = _resolved(ConvolutionCap(jnp.asarray(free), 1.0))
    np.testing.assert_array_equal(capped, free)


def test_zero_stays_zero_with_a_gradient_of_one():
    def total(free):
        return jnp.sum(ConvolutionCap(free, 0.5).value())

    zero = jnp.zeros((3, 2, 3))
    value, gradient = jax.jit(jax.value_and_grad(total))(zero)
    assert float(value) == 0.0
    np.testing.assert_allclose(gradient, np.ones((3, 2, 3)))


def test_loose_bound_would_cost_reach(layers):
    # sqrt(taps) times the norm of the reshaped kernel, the usual bound, against the operator's.
    free = np.asarray(layers["plane"].weight.free, np.float64)
    loose = 3.0 * np.linalg.norm(free.reshape(HIDDEN, -1), 2)
    assert loose > 1.2 * float(convolution_norm(free))


def test_layer_declares_weights_beyond_the_cap(layers, rng):
    # S = 2 I in the centre gives J = I - 4 D, so the constant is 3: declared, and attained.
    kernel = jnp.zeros((HIDDEN, CHANNELS, 4)).at[:CHANNELS, :, 1].set(2.0 * jnp.eye(CHANNELS))
    layer = eqx.tree_at(lambda x: x.weight, layers["ring of 6"], kernel)
    assert float(layer.lipschitz()) == pytest.approx(3.0)
    assert _worst(_matrices(layer, (6,), rng)) == pytest.approx(3.0)


def test_injection_costs_no_contraction(layers, rng):
    layer = layers["line"]
    loud = eqx.tree_at(lambda x: x.injection, layer, 1e3 * layer.injection)
    assert float(loud.lipschitz()) == 1.0
    y, e = jnp.zeros((4, CHANNELS)), jnp.ones((4, INPUTS))
    loud = _resolved(loud)
    assert float(jnp.linalg.norm(_call(loud, y, _inject(loud, e)) - y)) > 100.0


def test_cap_passes_gradients_and_resolves_once(layers, rng):
    layer = layers["line"]
    y = jnp.asarray(rng.normal(size=(4, CHANNELS)), jnp.float32)
    e = jnp.asarray(rng.normal(size=(4, INPUTS)), jnp.float32)
    layer = _with_free(layer, 3.0 * layer.weight.free)  # cap active

    def loss(module):
        return jnp.sum(module(y, module.inject(e)) ** 2)

    direct, gradient = eqx.filter_jit(eqx.filter_value_and_grad(loss))(layer)
    resolved = _resolved(layer)
    through = np.sum(np.asarray(_call(resolved, y, _inject(resolved, e))) ** 2)
    np.testing.assert_allclose(direct, through, rtol=1e-5)
    free, slope = layer.weight.free, gradient.weight.free
    assert float(jnp.max(jnp.abs(slope))) > 1e-3
    # An active cap makes the function independent of the scale of the free kernel.
    radial = abs(float(jnp.sum(slope * free)))
    assert radial < 2e-3 * float(jnp.linalg.norm(slope)) * float(jnp.linalg.norm(free))


@eqx.filter_jit
def _rounded(layer, states, injected):
    """Results and rounding bounds of many states."""
    return jax.vmap(lambda y, b: (layer(y, b), layer.rounding(y, b)))(states, injected)


def _errors_and_bounds(layer, name, states, injected):
    """True errors of float32 calls, against float64, and what `rounding` allows."""
    s = _dense(np.asarray(layer.weight, np.float64), LAYERS[name][3][0], LAYERS[name][0])
    values, bounds = (np.asarray(x, np.float64) for x in _rounded(layer, states, injected))
    y, b, values = (np.asarray(x, np.float64).reshape(40, -1) for x in (states, injected, values))
    exact = y - np.maximum(y @ s.T + b, 0.0) @ s
    sizes = np.linalg.norm(y, axis=1) + np.linalg.norm(b, axis=1)
    return np.linalg.norm(values - exact, axis=1), bounds, sizes


@pytest.mark.parametrize("shrink", [1.0, 1e-3])
@pytest.mark.parametrize("name", ["line", "board"])
def test_rounding_bounds_the_float32_error_and_is_not_vacuous(name, shrink, layers, rng):
    grid = LAYERS[name][3][0]
    states, injected = (_points(rng, (*grid, c), 40) for c in (CHANNELS, HIDDEN))
    layer = _resolved(layers[name])
    # With a small kernel all that is left is the rounding of the subtraction.
    layer = eqx.tree_at(lambda x: x.weight, layer, shrink * layer.weight)
    errors, bounds, sizes = _errors_and_bounds(layer, name, states, injected)
    assert np.all(errors <= bounds) and np.all(bounds <= 1e-4 * sizes)
    assert np.min(bounds / np.maximum(errors, 1e-30)) < 500


@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1e-20, 1e18])
def test_rounding_holds_where_squares_overflow_or_vanish(scale, layers, rng):
    states = jnp.asarray(scale * rng.normal(size=(40, 4, CHANNELS)), jnp.float32)
    injected = jnp.asarray(scale * rng.normal(size=(40, 4, HIDDEN)), jnp.float32)
    layer = _resolved(layers["line"])
    errors, bounds, _ = _errors_and_bounds(layer, "line", states, injected)
    assert np.all(errors <= bounds) and np.all(bounds < np.inf)


def test_layers_multiply_in_full_precision_on_every_device(layers):
    # The certified error bound assumes float32 rounding; the default on GPU is TF32.
    text = str(jax.make_jaxpr(_resolved(layers["line"]))(jnp.ones((4, 2)), jnp.ones((4, 3))))
    products = text.count("= dot_general[")
    assert products == 2 and "conv_general_dilated" not in text
    assert text.count("precision=(Precision.HIGHEST, Precision.HIGHEST)") == products


@pytest.mark.parametrize(("name", "cap"), [("line", 0.5), ("board", 2.0)])
def test_capped_convolution_holds_its_cap(name, cap, filled, rng):
    padding, window, grid, grids = LAYERS[name]
    layer = filled(
        lambda key: CappedConvolution(2, 3, window, padding=padding, grid=grid, cap=cap, key=key)
    )
    for family, free in _families(layer.weight.free.shape).items():
        capped = _with_free(layer, free)
        kernel = _value(capped)
        bound = float(capped.lipschitz())
        for size in grids:
            true = np.linalg.norm(_dense(kernel, size, padding), 2)
            assert true <= bound * (1 + 1e-12)
        assert bound <= cap * (1 + 1e-6)
        if family not in ("tiny", "zero"):
            assert bound >= 0.97 * cap
    x = rng.normal(size=(*grids[0], 2))
    expected = _dense(_value(layer), grids[0], padding) @ x.ravel()
    expected += np.tile(np.asarray(layer.bias), int(np.prod(grids[0])))
    result = _call(_resolved(layer), jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(np.asarray(result).ravel(), expected, atol=1e-4)


def test_another_grid_than_the_certified_one_is_refused(layers, assert_helpful):
    layer = _resolved(layers["ring of 6"])
    for call in (
        lambda: layer(jnp.zeros((7, CHANNELS)), jnp.zeros((7, HIDDEN))),
        lambda: layer.inject(jnp.zeros((7, INPUTS))),
    ):
        with pytest.raises(UsageError, match="grid=None") as raised:
            call()
        assert_helpful(raised)


@pytest.mark.parametrize("shape", [(2, 4, CHANNELS), (4, CHANNELS + 1)])
def test_a_state_of_another_shape_is_refused(shape, layers, assert_helpful):
    layer = _resolved(layers["line"])
    with pytest.raises(UsageError, match="channels last") as raised:
        layer(jnp.zeros(shape), jnp.zeros((*shape[:-1], HIDDEN)))
    assert_helpful(raised)


@pytest.mark.parametrize(
    ("channels", "window", "grid"), [(0, (3,), None), (2, (), None), (2, (3,), (4, 4))]
)
def test_sizes_that_make_no_convolution_are_refused(channels, window, grid, key, assert_helpful):
    with pytest.raises(UsageError, match="positive sizes") as raised:
        CappedConvolution(channels, 2, window, grid=grid, key=key)
    assert_helpful(raised)
    with pytest.raises(UsageError, match="positive sizes"):
        ConvConvexPotential(channels, 2, 2, window, grid=grid, key=key)


def test_initial_layer_starts_near_its_cap(key):
    layer = ConvConvexPotential(4, 4, 4, (3, 3), key=key)
    assert float(convolution_norm(np.asarray(layer.weight.free))) >= SQRT2  # so the cap is active
    assert layer.injection.shape == (4, 4, 3, 3) and not np.any(np.asarray(layer.bias))
    assert not np.array_equal(layer.injection, layer.weight.free)


@pytest.mark.parametrize("padding", [CIRCULAR, ZEROS])
def test_a_gradient_through_many_loops_keeps_states_and_no_patches(padding, key):
    loops, cells, channels, window = 32, 64, 4, 9
    layer = CappedConvolution(channels, channels, (window,), padding=padding, key=key)
    x = jax.random.normal(key, (cells, channels))

    def looped(layer, x):
        resolved = resolve(layer)
        return jnp.sum(jax.lax.scan(lambda h, _: (resolved(h), None), x, None, loops)[0] ** 2)

    arrays, static = eqx.partition(layer, eqx.is_inexact_array)
    gradient = jax.jit(jax.grad(lambda arrays, x: looped(eqx.combine(arrays, static), x)))
    needed = gradient.lower(arrays, x).compile().memory_analysis().temp_size_in_bytes
    assert needed < loops * 3 * x.nbytes  # patches alone are `window` times the state
