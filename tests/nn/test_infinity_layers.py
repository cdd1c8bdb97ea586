"""Layers in the ∞-norm: by hand, and their constants against exact Jacobians and adversaries."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from loopwm.errors import UsageError
from loopwm.nn.attention import RowStochasticAttention
from loopwm.nn.infinity import (
    Beside,
    L1Cap,
    L1CappedMix,
    MaxMin,
    NeighbourExtremum,
)
from loopwm.nn.neighbour_attention import NeighbourAttention
from loopwm.nn.neighbour_gates import GatedNeighbourMaximum
from loopwm.stability import Norm, UpperBound, attack, norms

CELLS, CHANNELS, INPUTS = (3, 2), 4, 3


def _families() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    gaussian = rng.normal(size=(CHANNELS, CHANNELS))
    return {
        "gaussian": gaussian,
        "small": 0.01 * gaussian,
        "huge": 1e25 * gaussian,
        "tiny": 1e-25 * gaussian,
        "all equal": np.full((CHANNELS, CHANNELS), 7.0),
        "badly scaled": gaussian * 10.0 ** np.linspace(-12, 12, CHANNELS)[:, None],
        "sums overflow": np.full((CHANNELS, CHANNELS), 3e38),
        "zero": np.zeros((CHANNELS, CHANNELS)),
    }


FAMILIES = _families()


def _with_free(layer: L1CappedMix, free) -> L1CappedMix:
    return eqx.tree_at(lambda x: x.weight.free, layer, jnp.asarray(free, jnp.float32))


@pytest.fixture(scope="module")
def mix() -> L1CappedMix:
    return L1CappedMix(CHANNELS, CHANNELS, INPUTS, key=jax.random.key(3))


@pytest.fixture(scope="module")
def layers(mix):
    """Every kind of layer, with weights far from their start."""
    attention = RowStochasticAttention(CHANNELS, INPUTS, heads=2, key=jax.random.key(4))
    directed = NeighbourAttention(INPUTS, heads=2, key=jax.random.key(6))
    gated = GatedNeighbourMaximum(INPUTS, heads=2, key=jax.random.key(7))
    return {
        "maximum": NeighbourExtremum("maximum"),
        "minimum": NeighbourExtremum("minimum"),
        "maximum on a torus": NeighbourExtremum("maximum", periodic=True),
        "maxmin": MaxMin(),
        "mix": mix,
        "mix, loud": jax.tree.map(lambda x: 100.0 * x, mix),
        "attention": attention,
        "attention, sharp": jax.tree.map(lambda x: 30.0 * x, attention),
        "neighbours": directed,
        "neighbours, sharp": jax.tree.map(lambda x: 30.0 * x, directed),
        "gated": gated,
        "gated, sharp": jax.tree.map(lambda x: 30.0 * x, gated),
        "beside": Beside(NeighbourExtremum("maximum")),
        "beside a mix": Beside(mix),
    }


NAMES = [
    *("maximum", "minimum", "maximum on a torus", "maxmin", "mix", "mix, loud"),
    *("attention", "attention, sharp", "neighbours", "neighbours, sharp", "gated", "gated, sharp"),
    *("beside", "beside a mix"),
]


def _points(rng, channels, count=16):
    """Random grids, near the origin and far from it."""
    scale = 10.0 ** rng.uniform(-3, 3, size=(count, 1, 1, 1))
    return jnp.asarray(scale * rng.normal(size=(count, *CELLS, channels)), jnp.float32)


@eqx.filter_jit
def _jacobians(layer, states, inputs):
    """Exact constants in the ∞-norm at many states, and what the layer says of each input."""

    def one(h, e):
        injected = layer.inject(e)
        jacobian = jax.jacobian(lambda x: layer(x, injected).ravel())(h)
        return jnp.abs(jacobian.reshape(len(jacobian), -1)).sum(axis=1).max(), layer.constant(
            injected
        )

    return jax.vmap(one)(states, inputs)


@pytest.mark.parametrize("name", NAMES)
def test_jacobians_keep_to_the_constant(name, layers, rng):
    layer = layers[name]
    exact, stated = map(np.asarray, _jacobians(layer, _points(rng, CHANNELS), _points(rng, INPUTS)))
    bound = layer.lipschitz()
    assert isinstance(bound, UpperBound) and bound.norm is Norm.INFINITY
    assert np.all(exact <= stated * (1 + 1e-6)) and np.all(stated <= float(bound) * (1 + 4e-6))
    assert float(bound) <= 1.0
    # Tight: some input and state attain it (a mix's gates need not all be open).
    assert exact.max() >= 0.95 * float(bound)


@pytest.mark.parametrize("name", NAMES)
def test_random_pairs_and_the_adversary_keep_to_the_constant(name, layers, rng, key):
    layer = layers[name]
    injected = eqx.filter_jit(layer.inject)(_points(rng, INPUTS, 1)[0])

    def flat(x):
        return layer(x.reshape(*CELLS, CHANNELS), injected).ravel()

    size = int(np.prod(CELLS)) * CHANNELS
    result = attack(flat, norms.infinity, size, key=key, starts=8, steps=30)
    assert 0.3 < result.ratio <= float(layer.lipschitz()) * (1 + 1e-5)


def test_pairs_that_agree_in_sign_with_a_row_attain_the_bound(mix):
    # The worst pair by hand: differences of ±1 with the signs of the row of the largest sum.
    layer = _with_free(mix, FAMILIES["gaussian"])
    opened = eqx.tree_at(lambda x: (x.gate, x.gate_bias), layer, (0.0 * layer.gate, jnp.ones(4)))
    weight = np.asarray(opened.weight.value(), np.float64)
    worst = int(np.abs(weight).sum(axis=1).argmax())
    difference = jnp.asarray(np.sign(weight[worst]), jnp.float32)
    injected = opened.inject(jnp.ones((1, INPUTS)))
    moved = opened(difference[None], injected) - opened(-difference[None], injected)
    assert float(norms.infinity(moved)) / 2.0 == pytest.approx(float(opened.lipschitz()), rel=1e-5)


def test_copying_is_free_in_this_norm_alone(mix):
    copies = jnp.zeros((CHANNELS, CHANNELS)).at[:, 0].set(1.0)
    layer = eqx.tree_at(lambda x: x.weight, mix, copies)
    assert float(layer.lipschitz()) == pytest.approx(1.0)
    assert np.linalg.norm(copies, 2) == pytest.approx(2.0)


def _extremum_by_hand(h: np.ndarray, choose, periodic: bool) -> np.ndarray:
    y = np.empty_like(h)
    cells = h.shape[:-1]
    for place in itertools.product(*map(range, cells)):
        found = [h[place]]
        for axis, step in itertools.product(range(len(cells)), (-1, 1)):
            other = list(place)
            other[axis] += step
            if periodic:
                other[axis] %= cells[axis]
            if 0 <= other[axis] < cells[axis]:
                found.append(h[tuple(other)])
        y[place] = choose(np.stack(found), axis=0)
    return y


@pytest.mark.parametrize("cells", [(1,), (5,), (3, 4), (1, 3), (2, 3, 2)], ids=str)
@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("kind", ["maximum", "minimum"])
def test_neighbours_by_hand(cells, periodic, kind, rng):
    h = rng.normal(size=(*cells, 2)).astype(np.float32)
    result = NeighbourExtremum(kind, periodic)(jnp.asarray(h))
    choose = np.max if kind == "maximum" else np.min
    np.testing.assert_array_equal(result, _extremum_by_hand(h, choose, periodic))


def test_a_maximum_spreads_to_four_neighbours_and_not_over_the_edge():
    h = jnp.full((3, 4, 1), -5.0).at[0, 0].set(2.0)  # all below zero: no padding may show up
    expected = np.full((3, 4), -5.0)
    expected[0, 0] = expected[0, 1] = expected[1, 0] = 2.0
    np.testing.assert_array_equal(NeighbourExtremum()(h)[..., 0], expected)
    expected[2, 0] = expected[0, 3] = 2.0
    np.testing.assert_array_equal(NeighbourExtremum(periodic=True)(h)[..., 0], expected)


def test_max_min_sorts_pairs():
    h = jnp.asarray([[1.0, -2.0, 3.0, -4.0]])
    np.testing.assert_array_equal(MaxMin()(h), [[3.0, -2.0, 1.0, -4.0]])


def test_nan_is_never_masked(layers):
    h = jnp.ones((*CELLS, CHANNELS)).at[0, 0, 0].set(jnp.nan)
    for layer in layers.values():
        assert np.isnan(layer(h, layer.inject(jnp.ones((*CELLS, INPUTS))))).any()


def test_rows_under_the_cap_are_left_alone_and_others_shortened_each_by_itself():
    free = jnp.asarray([[0.25, -0.5], [3.0, -1.0], [0.0, 0.0]])
    value = np.asarray(L1Cap(free).value())
    np.testing.assert_array_equal(value[[0, 2]], free[jnp.asarray([0, 2])])
    np.testing.assert_allclose(value[1], [0.75, -0.25], rtol=1e-5)
    np.testing.assert_allclose(np.asarray(L1Cap(free, 2.0).value())[1], [1.5, -0.5], rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_row_sums_never_exceed_the_cap(family, mix):
    layer = _with_free(mix, FAMILIES[family])
    value = np.asarray(layer.weight.value(), np.float64)
    sums = np.abs(value).sum(axis=1)
    assert np.all(np.isfinite(value)) and sums.max() <= 1.0
    assert sums.max() <= float(layer.lipschitz()) <= 1.0
    if family in ("gaussian", "huge", "all equal", "badly scaled"):
        assert sums.max() >= 1 - 1e-5


@given(hnp.arrays(np.float32, (3, 5), elements=st.floats(-1e3, 1e3, width=32)))
def test_row_sums_never_exceed_the_cap_for_weights_from_hypothesis(free):
    value = np.asarray(L1Cap(jnp.asarray(free)).value(), np.float64)
    assert np.abs(value).sum(axis=1).max() <= 1.0
    small = np.abs(free.astype(np.float64)).sum(axis=1) < 0.999
    np.testing.assert_array_equal(value[small], free[small])


def test_the_cap_has_a_gradient_at_zero_and_along_the_row():
    gradient = jax.grad(lambda free: jnp.sum(L1Cap(free).value()))
    np.testing.assert_allclose(gradient(jnp.zeros((2, 3))), np.ones((2, 3)))
    free = jnp.asarray([[3.0, -2.0, 1.0]])
    slope = gradient(free)
    assert abs(float(jnp.sum(slope * free))) < 1e-6  # scaling a capped row changes nothing
    assert float(jnp.max(jnp.abs(slope))) > 0.1


def test_weights_beyond_the_cap_are_declared(mix):
    layer = eqx.tree_at(lambda x: x.weight, mix, 2.0 * jnp.eye(CHANNELS))
    assert float(layer.lipschitz()) == pytest.approx(2.0)
    assert float(Beside(layer).lipschitz()) == pytest.approx(2.0)


def test_mix_by_hand(mix, rng):
    h, e = rng.normal(size=(*CELLS, CHANNELS)), 3.0 * rng.normal(size=(*CELLS, INPUTS))
    layer = eqx.tree_at(lambda x: x.bias, mix, jnp.arange(4.0))
    weight = np.asarray(layer.weight.value())
    gates = np.clip(e @ np.asarray(layer.gate).T + np.asarray(layer.gate_bias), -1.0, 1.0)
    expected = gates * (h @ weight.T) + e @ np.asarray(layer.injection).T + np.arange(4.0)
    injected = layer.inject(jnp.asarray(e, jnp.float32))
    np.testing.assert_allclose(layer(jnp.asarray(h, jnp.float32), injected), expected, atol=1e-5)
    assert gates.min() < 0.5 and gates.max() == 1.0  # both ends of the gate were tried


def test_gates_never_exceed_one_for_any_input(mix):
    for scale in (1e-20, 1.0, 1e10, 1e37):
        gates, _ = mix.inject(jnp.full((2, INPUTS), scale))
        assert float(jnp.max(jnp.abs(gates))) <= 1.0


def test_attention_by_hand(rng):
    layer = RowStochasticAttention(CHANNELS, INPUTS, heads=2, head_width=5, key=jax.random.key(0))
    h, e = rng.normal(size=(6, CHANNELS)), rng.normal(size=(6, INPUTS))
    query, keys = np.asarray(layer.query, np.float64), np.asarray(layer.key, np.float64)
    expected = np.empty_like(h)
    for head in range(2):
        logits = (e @ query[head].T) @ (e @ keys[head].T).T / np.sqrt(5)
        weights = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        expected[:, 2 * head : 2 * head + 2] = weights @ h[:, 2 * head : 2 * head + 2]
    injected = layer.inject(jnp.asarray(e, jnp.float32))
    result = layer(jnp.asarray(h, jnp.float32), injected)
    np.testing.assert_allclose(result, expected, atol=1e-4)
    grid = layer(jnp.asarray(h.reshape(2, 3, 4), jnp.float32), injected)
    np.testing.assert_array_equal(grid.reshape(6, 4), result)  # a grid is its cells in a row


def test_attention_rows_are_substochastic_for_any_logits(layers):
    for scale in (0.0, 1.0, 1e3, 1e15):
        for name in ("attention", "attention, sharp"):
            e = scale * jax.random.normal(jax.random.key(1), (50, INPUTS))
            weights = np.asarray(layers[name].inject(e), np.float64)
            assert weights.min() >= 0.0
            sums = weights.sum(axis=-1)
            assert sums.max() <= 1.0 and sums.min() >= 1.0 - 1e-4


def test_beside_keeps_the_state(layers, rng):
    h = _points(rng, CHANNELS, 1)[0]
    result = layers["beside"](h, None)
    np.testing.assert_array_equal(result[..., :CHANNELS], h)
    np.testing.assert_array_equal(result[..., CHANNELS:], layers["maximum"](h))


def _twin(name, layer, h, injected):
    """The layer in float64, with what was injected as the float32 numbers that it is."""
    h = np.asarray(h, np.float64)
    if name.startswith("mix"):
        gates, added = (np.asarray(x, np.float64) for x in injected)
        return gates * (h @ np.asarray(layer.weight, np.float64).T) + added
    weights = np.asarray(injected, np.float64)
    tokens = h.reshape(-1, CHANNELS)
    halves = [a @ tokens[:, 2 * i : 2 * i + 2] for i, a in enumerate(weights)]
    return np.concatenate(halves, axis=1).reshape(h.shape)


@pytest.mark.parametrize("name", ["mix", "mix, loud", "attention", "attention, sharp"])
def test_rounding_bounds_the_float32_error_and_is_not_vacuous(name, layers, rng):
    layer = layers[name]
    if name.startswith("mix"):
        layer = eqx.tree_at(lambda x: x.weight, layer, layer.weight.value())
    call = eqx.filter_jit(lambda h, i: (layer(h, i), layer.rounding(h, i)))
    inject, tightest = eqx.filter_jit(layer.inject), np.inf
    for h, e in zip(_points(rng, CHANNELS), _points(rng, INPUTS), strict=True):
        injected = inject(e)
        value, bound = call(h, injected)
        error = np.max(np.abs(np.asarray(value, np.float64) - _twin(name, layer, h, injected)))
        assert error <= float(bound)
        added = float(norms.infinity(injected[1])) if name.startswith("mix") else 0.0
        assert float(bound) <= 1e-5 * (float(norms.infinity(h)) + added)
        tightest = min(tightest, float(bound) / max(error, 1e-30))
    assert tightest < 100


def test_layers_that_select_do_not_round(layers, rng):
    h = _points(rng, CHANNELS, 1)[0]
    for name in ("maximum", "minimum", "maxmin", "beside"):
        assert float(layers[name].rounding(h, None)) == 0.0


def test_layers_multiply_in_full_precision_on_every_device(layers):
    # The certified error bound assumes float32 rounding; the default on GPU is TF32.
    for name in ("mix", "attention"):
        injected = layers[name].inject(jnp.ones((*CELLS, INPUTS)))
        text = str(jax.make_jaxpr(layers[name])(jnp.ones((*CELLS, CHANNELS)), injected))
        products = text.count("= dot_general[")
        assert products > 0
        assert text.count("precision=(Precision.HIGHEST, Precision.HIGHEST)") == products


@pytest.mark.parametrize(
    "call",
    [
        lambda: NeighbourExtremum("mean"),
        lambda: MaxMin()(jnp.ones((2, 3))),
        lambda: RowStochasticAttention(4, 2, heads=2, key=jax.random.key(0))(
            jnp.ones((2, 3)), jnp.ones((2, 2, 2))
        ),
    ],
    ids=["kind", "odd channels", "heads"],
)
def test_bad_input_is_refused(call, assert_helpful):
    with pytest.raises(Exception) as raised:
        call()
    if raised.type is UsageError:
        assert_helpful(raised)
    else:  # the checked annotation of a Literal comes first in tests
        assert "kind" in str(raised.value)
