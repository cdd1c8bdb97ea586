"""SLL and sandwich layers: constant 1 over every ReLU pattern, for any weights."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from loopwm.nn import resolve
from loopwm.nn.sandwich import Sandwich
from loopwm.nn.sll import SLL
from loopwm.stability import attack

WIDTH, INPUTS = 4, 3
LAYERS = {
    "sll": SLL(WIDTH, 5, INPUTS, key=jax.random.key(3)),
    "sandwich": Sandwich(WIDTH, 5, INPUTS, key=jax.random.key(5)),
    "sandwich narrow": Sandwich(WIDTH, 2, INPUTS, key=jax.random.key(6)),
    "sandwich full": Sandwich(WIDTH, 8, INPUTS, key=jax.random.key(7)),
}
_value = eqx.filter_jit(lambda layer: layer.weight.value())
_call = eqx.filter_jit(lambda layer, y, injected: layer(y, injected))


def _families(shape: tuple[int, int], largest: float = 3.4e38) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    gaussian = rng.normal(size=shape)
    rows = np.linspace(-1, 1, shape[0])[:, None]
    return {
        "gaussian": gaussian,
        "times 100": 100.0 * gaussian,
        "huge": 1e25 * gaussian,
        "largest": largest * np.clip(gaussian, -1, 1),
        "tiny": 1e-25 * gaussian,
        "smallest": 1e-38 * gaussian,
        "all equal": np.full(shape, 7.0),
        "badly scaled": gaussian * 10.0 ** (12 * rows),
        "hopelessly scaled": gaussian * 10.0 ** (37 * rows),
        "rank one": np.outer(gaussian[:, 0], gaussian[0]) * 50.0,
        "orthogonal": 3.0 * np.linalg.qr(rng.normal(size=(8, 8)))[0][: shape[0], : shape[1]],
        "one zero row": np.where(np.arange(shape[0])[:, None] == 0, 0.0, gaussian),
        "zero": np.zeros(shape),
    }


def _with_free(layer, free):
    return eqx.tree_at(lambda x: x.weight.free, layer, jnp.asarray(free, jnp.float32))


def _matrices(layer, weight):
    """The identity path, P and Q of y⁺ = I y + Pᵀ relu(Q y + injected)."""
    weight = np.asarray(weight, np.float64)
    if isinstance(layer, Sandwich):
        return np.zeros((WIDTH, WIDTH)), weight[:, :WIDTH], weight[:, WIDTH:]
    return np.eye(WIDTH), -weight, weight


def _supremum(layer, weight) -> float:
    """The largest norm of the Jacobian: convex in the slopes, so found at a pattern of 0 and 1."""
    identity, outward, inward = _matrices(layer, weight)
    patterns = np.array(list(itertools.product([0.0, 1.0], repeat=len(inward))))
    jacobians = identity + np.einsum("hi,ph,hj->pij", outward, patterns, inward)
    return float(np.linalg.svd(jacobians, compute_uv=False).max())


@pytest.mark.parametrize("name", LAYERS)
def test_no_pattern_exceeds_one_for_any_weights(name):
    layer = LAYERS[name]
    # The Gram iteration inside a sandwich layer is good up to 2^127.
    largest = 3.4e38 if isinstance(layer, SLL) else 1.6e38
    for family, free in _families(layer.weight.free.shape, largest).items():
        changed = _with_free(layer, free)
        weight = _value(changed)
        assert np.all(np.isfinite(weight)), family
        bound = float(changed.lipschitz())
        assert _supremum(layer, weight) <= bound * (1 + 1e-12), family
        assert bound <= 1.0, family


@pytest.mark.parametrize("name", ["sll", "sandwich"])
@given(data=st.data())
def test_no_pattern_exceeds_one_for_weights_from_hypothesis(name, data):
    layer = LAYERS[name]
    elements = st.floats(-1e3, 1e3, width=32, allow_subnormal=False)
    free = data.draw(hnp.arrays(np.float32, layer.weight.free.shape, elements=elements))
    changed = _with_free(layer, free)
    if isinstance(layer, SLL):
        log_q = data.draw(hnp.arrays(np.float32, len(free), elements=elements))
        changed = eqx.tree_at(lambda x: x.weight.log_q, changed, jnp.asarray(log_q))
    bound = float(changed.lipschitz())
    assert _supremum(layer, _value(changed)) <= bound * (1 + 1e-12) and bound <= 1.0


def test_bounds_are_not_loose(rng):
    # Orthogonal rows use the whole cap of SLL: a full reflection.
    rotation = np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))[0]
    layer = _with_free(LAYERS["sll"], np.vstack([3.0 * rotation, np.zeros((1, WIDTH))]))
    assert np.linalg.norm(_value(layer), 2) == pytest.approx(np.sqrt(2.0), rel=1e-4)
    # A sandwich layer gives away no more than the rounding of its orthogonality.
    for name in ("sandwich", "sandwich narrow", "sandwich full"):
        weight = np.asarray(_value(LAYERS[name]), np.float64)
        np.testing.assert_allclose(weight @ weight.T, 2.0 * np.eye(len(weight)), atol=2e-4)
        assert _supremum(LAYERS[name], weight) >= 0.85


@pytest.mark.parametrize("name", ["sll", "sandwich"])
def test_weights_beyond_the_cap_are_declared(name, rng):
    # The certificate looks at the numbers, not at how they came about.
    layer = LAYERS[name]
    for scale in (1.5, 10.0):
        weight = scale * _value(layer)
        changed = eqx.tree_at(lambda x: x.weight, layer, weight)
        true, bound = _supremum(layer, weight), float(changed.lipschitz())
        assert max(1.0, true) <= bound * (1 + 1e-9)
        assert bound <= 2.5 * true


def test_sandwich_bound_does_not_depend_on_the_balance_of_both_matrices():
    layer = LAYERS["sandwich"]
    weight = np.asarray(_value(layer), np.float64)
    skewed = np.hstack([1000.0 * weight[:, :WIDTH], weight[:, WIDTH:] / 1000.0])
    changed = eqx.tree_at(lambda x: x.weight, layer, jnp.asarray(skewed, jnp.float32))
    bound = float(changed.lipschitz())
    assert _supremum(layer, skewed) * (1 - 1e-6) <= bound <= 2.0


@pytest.mark.parametrize("name", ["sll", "sandwich"])
def test_jacobians_and_values_follow_the_equation(name, rng):
    layer = LAYERS[name]
    weight = _value(layer)
    layer = eqx.tree_at(
        lambda x: (x.weight, x.bias), layer, (weight, jnp.linspace(-0.5, 0.5, len(layer.bias)))
    )
    identity, outward, inward = _matrices(layer, weight)
    patterns = set()
    jacobian = jax.jit(jax.jacobian(layer))
    for _ in range(40):
        y, e = rng.normal(size=WIDTH), rng.normal(size=INPUTS)
        injected = np.asarray(layer.injection, np.float64) @ e + np.asarray(layer.bias)
        before = inward @ y + injected
        patterns.add(tuple(before > 0))
        expected = identity @ y + outward.T @ np.maximum(before, 0.0)
        y, e = jnp.asarray(y, jnp.float32), jnp.asarray(e, jnp.float32)
        np.testing.assert_allclose(_call(layer, y, layer.inject(e)), expected, atol=1e-5)
        if np.min(np.abs(before)) > 1e-4:
            slopes = np.diag((before > 0).astype(float))
            np.testing.assert_allclose(
                jacobian(y, layer.inject(e)), identity + outward.T @ slopes @ inward, atol=1e-5
            )
    assert len(patterns) >= 3  # active and inactive rows were met


def test_sll_weights_by_hand():
    # T_i = Σ_j |w_i·w_j| q_j/q_i; rows under the cap are left alone.
    free = np.zeros((5, WIDTH))
    free[:3, :2] = [[3.0, 4.0], [0.0, 2.0], [0.1, 0.0]]
    log_q = np.array([0.0, 1.0, -1.0, 0.0, 2.0])
    layer = eqx.tree_at(lambda x: x.weight.log_q, LAYERS["sll"], jnp.asarray(log_q, jnp.float32))
    q = np.exp(4.0 * np.tanh(log_q / 4.0))
    sums = np.sum(np.abs(free @ free.T) * q[None] / q[:, None], axis=1)
    assert sums[0] > 2 and sums[1] > 2 > sums[2] > 0
    factors = np.sqrt(2.0 / np.maximum(sums, 2.0))
    np.testing.assert_allclose(_value(_with_free(layer, free)), free * factors[:, None], rtol=1e-4)
    small = _value(_with_free(layer, 0.05 * free))
    np.testing.assert_array_equal(small, np.asarray(0.05 * free, np.float32))


def test_sll_is_the_published_layer_where_its_cap_is_active(rng):
    free = 5.0 * rng.normal(size=(5, WIDTH))
    layer = _with_free(LAYERS["sll"], free)
    y, injected = rng.normal(size=WIDTH), rng.normal(size=5)
    sums = np.sum(np.abs(free @ free.T), axis=1)
    published = np.maximum(free @ y + np.sqrt(sums / 2.0) * injected, 0.0)
    expected = y - 2.0 * free.T @ (published / sums)
    result = _call(layer, jnp.asarray(y, jnp.float32), jnp.asarray(injected, jnp.float32))
    np.testing.assert_allclose(result, expected, atol=1e-4)


def test_sandwich_is_the_published_layer_with_its_diagonal_cancelled(rng):
    layer = LAYERS["sandwich"]
    a, b = np.split(np.asarray(_value(layer), np.float64) / np.sqrt(2.0), 2, axis=1)
    np.testing.assert_allclose(a @ a.T + b @ b.T, np.eye(5), atol=1e-4)
    psi, y, injected = np.exp(rng.normal(size=5)), rng.normal(size=WIDTH), rng.normal(size=5)
    before = np.sqrt(2.0) * (b @ y) / psi + injected / psi
    expected = np.sqrt(2.0) * a.T @ (psi * np.maximum(before, 0.0))
    result = _call(layer, jnp.asarray(y, jnp.float32), jnp.asarray(injected, jnp.float32))
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_cayley_rows_follow_the_transform(rng):
    layer = LAYERS["sandwich"]
    free = 0.4 * rng.normal(size=(2 * WIDTH, 5))
    x, y = free[:5], free[5:]
    z = x - x.T + y.T @ y
    inverse = np.linalg.inv(np.eye(5) + z)
    expected = np.sqrt(2.0) * np.vstack([(np.eye(5) - z) @ inverse, -2.0 * y @ inverse]).T
    np.testing.assert_allclose(_value(_with_free(layer, free)), expected, atol=1e-4)


def test_one_lipschitz_under_attack_and_injection_is_free(key):
    for layer in LAYERS.values():
        loud = eqx.tree_at(lambda x: x.injection, layer, 1e3 * layer.injection)
        assert float(loud.lipschitz()) <= 1.0
    layer, e = resolve(LAYERS["sandwich"]), 0.01 * jnp.ones(INPUTS)
    layer = eqx.tree_at(lambda x: x.injection, layer, 1e3 * layer.injection)
    result = attack(
        lambda y: layer(y, layer.inject(e)), jnp.linalg.norm, WIDTH, key=key, starts=8, steps=30
    )
    assert 0.7 <= result.ratio <= 1 + 1e-6


@pytest.mark.parametrize("name", ["sll", "sandwich"])
def test_resolve_gives_the_same_function_and_gradients(name, rng):
    layer = LAYERS[name]
    y = jnp.asarray(rng.normal(size=WIDTH), jnp.float32)
    e = jnp.asarray(rng.normal(size=INPUTS), jnp.float32)

    def loss(module):
        return jnp.sum(module(module(y, module.inject(e)), module.inject(e)) ** 2)

    assert isinstance(resolve(layer).weight, jax.Array)
    direct, gradient = eqx.filter_jit(eqx.filter_value_and_grad(loss))(layer)
    through, resolved = eqx.filter_jit(eqx.filter_value_and_grad(lambda m: loss(resolve(m))))(layer)
    np.testing.assert_allclose(direct, through, rtol=1e-6)
    assert float(jnp.max(jnp.abs(gradient.weight.free))) > 1e-3
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(resolved), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["sll", "sandwich"])
def test_gradients_are_finite_for_every_family(name):
    layer = LAYERS[name]
    y, e = jnp.arange(1.0, WIDTH + 1), jnp.ones(INPUTS)
    gradient = eqx.filter_jit(
        eqx.filter_grad(lambda module: jnp.sum(module(y, module.inject(e)) ** 2))
    )
    for family, free in _families(layer.weight.free.shape).items():
        if family == "largest" and name == "sandwich":
            continue  # its spectral norm is not a float32 number, so it has no gradient
        for leaf in jax.tree.leaves(gradient(_with_free(layer, free))):
            assert np.all(np.isfinite(leaf)), family


def test_zero_weights_of_sll_can_grow():
    zero = jnp.zeros((5, 4))
    slope = jax.jit(jax.grad(lambda w: jnp.sum(_with_free(LAYERS["sll"], w).weight.value())))
    np.testing.assert_array_equal(slope(zero), np.ones((5, 4)))


@pytest.mark.parametrize("name", ["sll", "sandwich"])
def test_a_gradient_is_that_of_finite_differences(name, rng):
    layer = LAYERS[name]
    free = np.asarray(layer.weight.free, np.float64) * 3.0
    weights = jnp.asarray(rng.normal(size=_value(layer).shape))
    direction = rng.normal(size=free.shape)
    with jax.enable_x64(True):

        def total(x):
            weight = eqx.tree_at(lambda p: p.free, layer.weight, jnp.asarray(x, jnp.float64))
            return jnp.sum(weights * weight.value())

        total = jax.jit(total)
        slope = float(jnp.vdot(jax.grad(total)(free), direction))
        step = 1e-5
        numeric = (total(free + step * direction) - total(free - step * direction)) / (2 * step)
    assert slope == pytest.approx(float(numeric), rel=1e-4)


@pytest.mark.parametrize("name", ["sll", "sandwich"])
def test_nan_is_not_masked(name):
    layer = LAYERS[name]
    broken = layer.weight.free.at[1, 1].set(jnp.nan)
    assert np.any(np.isnan(_value(_with_free(layer, broken))))
    with pytest.raises(ValueError, match="NaN"):
        _with_free(layer, broken).lipschitz()


@pytest.mark.parametrize("name", ["sll", "sandwich"])
def test_rounding_bounds_the_float32_error_and_is_not_vacuous(name, rng):
    layer = resolve(LAYERS[name])
    identity, outward, inward = _matrices(layer, layer.weight)
    both = jax.jit(lambda y, b: (layer(y, b), layer.rounding(y, b)))
    tightest = np.inf
    for exponent in np.linspace(-30, 15, 46):
        scale = 10.0**exponent
        y = jnp.asarray(scale * rng.normal(size=WIDTH), jnp.float32)
        injected = jnp.asarray(10.0 ** rng.uniform(-2, 2) * scale * rng.normal(size=5), jnp.float32)
        value, bound = both(y, injected)
        wide = [np.asarray(x, np.float64) for x in (y, injected)]
        exact = identity @ wide[0] + outward.T @ np.maximum(inward @ wide[0] + wide[1], 0.0)
        error = np.linalg.norm(np.asarray(value, np.float64) - exact)
        assert error <= float(bound), exponent
        size = float(np.linalg.norm(wide[0]) + np.linalg.norm(wide[1]))
        assert float(bound) <= 1e-4 * size + 1e-22
        tightest = min(tightest, float(bound) / max(error, 1e-30))
    assert tightest < 300


@pytest.mark.parametrize("name", ["sll", "sandwich"])
def test_layers_multiply_in_full_precision_on_every_device(name):
    text = str(jax.make_jaxpr(lambda y: LAYERS[name](y, jnp.zeros(5)))(jnp.ones(WIDTH)))
    products = text.count("= dot_general[")
    assert products > 0
    assert text.count("precision=(Precision.HIGHEST, Precision.HIGHEST)") == products


def test_constructors_can_be_traced_and_a_sandwich_has_a_largest_size(filled, assert_helpful):
    for kind in (SLL, Sandwich):
        layer = filled(lambda key, kind=kind: kind(WIDTH, 5, INPUTS, key=key))
        assert _call(layer, jnp.ones(4), layer.inject(jnp.ones(INPUTS))).shape == (4,)
    with pytest.raises(ValueError) as raised:
        Sandwich(4, 9, 2, key=jax.random.key(0))
    assert_helpful(raised)
