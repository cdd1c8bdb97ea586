"""Each layer's declared constant against Jacobians, random and adversarial, for any weights."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from loopwm.nn import CappedLinear, ConvexPotential
from loopwm.stability import attack, exact_norm

WIDTH = 6
SQRT2 = float(np.sqrt(2.0))


def _families() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    gaussian = rng.normal(size=(WIDTH, WIDTH))
    return {
        "gaussian": gaussian,
        "times 100": 100.0 * gaussian,
        "huge": 1e25 * gaussian,
        "tiny": 1e-25 * gaussian,
        "all equal": np.full((WIDTH, WIDTH), 7.0),
        "badly scaled": gaussian * 10.0 ** np.linspace(-12, 12, WIDTH)[:, None],
        "rank one": np.outer(gaussian[0], gaussian[1]) * 50.0,
        "orthogonal": 3.0 * np.linalg.qr(gaussian)[0],
        "zero": np.zeros((WIDTH, WIDTH)),
    }


FAMILIES = _families()


@pytest.fixture(scope="module")
def convex() -> ConvexPotential:
    return ConvexPotential(WIDTH, WIDTH, WIDTH, key=jax.random.key(3))


def _with_free(layer, free):
    return eqx.tree_at(lambda x: x.weight.free, layer, jnp.asarray(free, jnp.float32))


@eqx.filter_jit
def _convex_jacobians(layer, states, inputs):
    """Jacobians in y at many states and inputs, shape (states, width, width)."""
    return jax.vmap(lambda y, e: jax.jacobian(layer)(y, layer.inject(e)))(states, inputs)


def _worst(jacobians) -> float:
    assert np.all(np.isfinite(jacobians))
    return float(np.linalg.svd(np.asarray(jacobians, np.float64), compute_uv=False).max())


def _points(rng, count=64):
    """Random points, near the origin and far from it."""
    scale = 10.0 ** rng.uniform(-3, 3, size=(count, 1))
    return jnp.asarray(scale * rng.normal(size=(count, WIDTH)), jnp.float32)


@pytest.mark.parametrize("family", FAMILIES)
def test_convex_potential_is_one_lipschitz_for_any_weights(family, convex, rng):
    layer = _with_free(convex, FAMILIES[family])
    jacobians = _convex_jacobians(layer, _points(rng), _points(rng))
    assert _worst(jacobians) <= float(layer.lipschitz()) * (1 + 1e-5)
    assert float(layer.lipschitz()) == 1.0
    if family == "zero":
        np.testing.assert_array_equal(jacobians[0], np.eye(WIDTH))


@given(
    free=hnp.arrays(
        np.float32, (WIDTH, WIDTH), elements=st.floats(-1e3, 1e3, width=32, allow_subnormal=False)
    ),
    seed=st.integers(0, 2**16),
)
def test_convex_potential_is_one_lipschitz_for_weights_from_hypothesis(free, seed, convex):
    layer = _with_free(convex, free)
    rng = np.random.default_rng(seed)
    assert _worst(_convex_jacobians(layer, _points(rng), _points(rng))) <= 1 + 1e-5


def test_convex_potential_survives_the_adversary(convex, key):
    layer = _with_free(convex, FAMILIES["times 100"])
    injected = layer.inject(jnp.ones(WIDTH))
    result = attack(
        lambda y: layer(y, injected), jnp.linalg.norm, WIDTH, key=key, starts=12, steps=60
    )
    assert 0.9 <= result.ratio <= 1 + 1e-4


def test_convex_potential_declares_weights_beyond_the_cap(convex, rng):
    # S = 2I gives J = I - 4D, so the constant is 3: declared, and really attained.
    layer = eqx.tree_at(lambda x: x.weight, convex, 2.0 * jnp.eye(WIDTH))
    assert float(layer.lipschitz()) == pytest.approx(3.0)
    assert _worst(_convex_jacobians(layer, _points(rng), _points(rng))) == pytest.approx(3.0)


def test_convex_potential_by_hand(convex, rng):
    y, e = rng.normal(size=WIDTH), rng.normal(size=WIDTH)
    layer = eqx.tree_at(lambda x: x.bias, convex, jnp.asarray(rng.normal(size=WIDTH), jnp.float32))
    s = np.asarray(layer.weight.value(), np.float64)
    expected = y - s.T @ np.maximum(s @ y + np.asarray(layer.injection) @ e + layer.bias, 0.0)
    result = layer(jnp.asarray(y, jnp.float32), layer.inject(jnp.asarray(e, jnp.float32)))
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_convex_potential_uses_most_of_its_cap_and_its_injection(convex, rng):
    assert 0.95 * SQRT2 <= float(exact_norm(np.asarray(convex.weight.value()))) <= SQRT2
    # An input dependence that the certificate does not pay for: U may be anything.
    loud = eqx.tree_at(lambda x: x.injection, convex, 1e3 * convex.injection)
    assert float(loud.lipschitz()) == 1.0
    y, e = _points(rng)[0], jnp.ones(WIDTH)
    assert float(jnp.linalg.norm(loud(y, loud.inject(e)) - y)) > 100.0


def _convex64(s, y, injected):
    s, y, injected = (np.asarray(x, np.float64) for x in (s, y, injected))
    return y - s.T @ np.maximum(s @ y + injected, 0.0)


def test_rounding_bounds_the_float32_error_and_is_not_vacuous(convex, rng):
    call = jax.jit(lambda y, b: (convex(y, b), convex.rounding(y, b)))
    weight = convex.weight.value()
    tightest = np.inf
    for y, e in zip(_points(rng, 40), _points(rng, 40), strict=True):
        injected = convex.inject(e)
        value, bound = call(y, injected)
        error = np.linalg.norm(np.asarray(value, np.float64) - _convex64(weight, y, injected))
        assert error <= float(bound)
        size = float(jnp.linalg.norm(y) + jnp.linalg.norm(injected))
        assert float(bound) <= 1e-4 * size
        tightest = min(tightest, float(bound) / max(error, 1e-30))
    assert tightest < 500


def test_layers_multiply_in_full_precision_on_every_device(convex, key):
    # The certified error bound assumes float32 rounding; the default on GPU is TF32.
    linear = CappedLinear(WIDTH, 3, key=key)
    for call in (lambda y: convex(y, jnp.zeros(WIDTH)), linear):
        text = str(jax.make_jaxpr(call)(jnp.ones(WIDTH)))
        products = text.count("= dot_general[")
        assert products > 0
        assert text.count("precision=(Precision.HIGHEST, Precision.HIGHEST)") == products


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("cap", [0.5, 2.0])
def test_capped_linear_holds_its_cap(family, cap, key):
    layer = _with_free(CappedLinear(WIDTH, WIDTH, cap=cap, key=key), FAMILIES[family])
    weight = np.asarray(layer.weight.value(), np.float64)
    true = np.linalg.norm(weight, 2)
    assert true <= float(layer.lipschitz()) <= cap * (1 + 1e-6)
    assert float(layer.lipschitz()) <= true * (1 + 1e-5)
    if np.linalg.norm(FAMILIES[family], 2) > cap:
        assert float(layer.lipschitz()) >= 0.95 * cap
    x = np.arange(1.0, WIDTH + 1)
    result = layer(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(result, weight @ x, rtol=1e-4, atol=1e-4)


def test_capped_linear_adds_its_bias(filled):
    layer = filled(lambda key: CappedLinear(4, 3, key=key))
    layer = eqx.tree_at(lambda x: x.bias, layer, jnp.asarray([1.0, -2.0, 3.0]))
    np.testing.assert_array_equal(eqx.filter_jit(layer)(jnp.zeros(4)), [1.0, -2.0, 3.0])
