"""Attention layers: their equations in float64, masks, rounding and bad arguments."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_cases import (
    CAPPED,
    HEADS,
    INPUTS,
    LAYERS,
    SOURCES,
    TOKENS,
    WIDTH,
    everything,
    random_inputs,
    random_state,
    source_count,
    with_free,
)

from loopwm.nn import resolve
from loopwm.nn.attention import CrossAttention, RowStochasticAttention, SelfAttention


def _size64(name: str, x: np.ndarray) -> float:
    """A state's size in the norm of the layer, in float64."""
    x = np.asarray(x, np.float64)
    if name == "average":
        return float(np.abs(x).max())
    lengths = np.linalg.norm(x, axis=1)
    return float(np.linalg.norm(lengths) if name == "cross" else lengths.max())


def _soft64(x, radius):
    return x / np.sqrt(1.0 + np.sum(x**2, axis=-1, keepdims=True) / radius**2)


def _softmax64(logits, mask, bias):
    logits = np.where(mask[None], logits + bias, -np.inf)
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def _wide(*arrays):
    return [np.asarray(a, np.float64) for a in arrays]


def _cross64(layer, h, e, mask, bias):
    """The documented equations of `CrossAttention` in float64, token by token."""
    (query, output), e, h, bias = _wide(layer.projections, e, h, bias)
    size = query.shape[1]
    rows = e @ np.asarray(layer.source.weight, np.float64).T + np.asarray(layer.source.bias)
    keys, values = rows.reshape(SOURCES, 2, HEADS, size).transpose(1, 2, 0, 3)
    keys, values = _soft64(keys, layer.key_radius), _soft64(values, layer.value_radius)
    queries = np.einsum("adw,nw->and", query, h) + np.asarray(layer.query_bias)[:, None]
    logits = np.einsum("and,amd->anm", queries, keys) / np.sqrt(size)
    weights = _softmax64(logits, np.asarray(mask), bias)
    heads = np.einsum("anm,amd->and", weights, values)
    return weights, np.einsum("and,adw->nw", heads, output) + np.asarray(layer.output_bias)


def _self64(layer, h, e, mask, bias):
    """The documented equations of `SelfAttention` in float64."""
    (query, key, value, output), e, h, bias = _wide(layer.projections, e, h, bias)
    size = query.shape[1]
    rows = e @ np.asarray(layer.injection.weight, np.float64).T + np.asarray(layer.injection.bias)
    shift = rows.reshape(TOKENS, 3, HEADS, size).transpose(1, 2, 0, 3)
    q, k, v = (
        _soft64(np.einsum("adw,nw->and", w, h) + s, radius)
        for w, s, radius in zip(
            (query, key, value),
            shift,
            (layer.key_radius, layer.key_radius, layer.value_radius),
            strict=True,
        )
    )
    weights = _softmax64(np.einsum("and,amd->anm", q, k) / np.sqrt(size), np.asarray(mask), bias)
    heads = np.einsum("anm,amd->and", weights, v)
    return weights, np.einsum("and,adw->nw", heads, output) + np.asarray(layer.output_bias)


def _average64(layer, h, e, mask, bias):
    """The documented equations of `RowStochasticAttention` in float64."""
    query, key, e, h, bias = _wide(layer.query, layer.key, e, h, bias)
    logits = np.einsum("adi,ni,adj,mj->anm", query, e, key, e) / np.sqrt(query.shape[1])
    weights = _softmax64(logits, np.asarray(mask), bias)
    slices = np.split(h, HEADS, axis=1)
    return weights, np.hstack([weights[a] @ slices[a] for a in range(HEADS)])


REFERENCES = {"cross": _cross64, "self": _self64, "average": _average64}


@pytest.mark.parametrize("name", LAYERS)
def test_values_and_weights_follow_the_equations(name, rng):
    for scale in (0.1, 1.0, 30.0):
        h, inputs = random_state(rng, scale), random_inputs(name, rng, scale)
        value, _, _, weights, _, layer, _ = everything(LAYERS[name], h, *inputs)
        expected_weights, expected = REFERENCES[name](layer, h, *inputs)
        np.testing.assert_allclose(weights, expected_weights, atol=2e-5)
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)
        assert np.all(np.asarray(weights)[:, ~np.asarray(inputs[1])] == 0.0)


@pytest.mark.parametrize("name", LAYERS)
def test_masks(name, rng):
    layer, h = LAYERS[name], random_state(rng)
    e, _, bias = random_inputs(name, rng)
    mask = np.ones((TOKENS, source_count(name)), bool)
    mask[:, 1] = False
    mask[2] = False  # token 2 may look nowhere
    value, jacobian, _, weights, *_ = everything(layer, h, e, jnp.asarray(mask), bias)
    assert np.all(weights[:, 2] == 0.0) and np.all(weights[:, :, 1] == 0.0)
    np.testing.assert_allclose(np.asarray(weights[:, :2]).sum(axis=-1), 1.0, atol=1e-5)
    np.testing.assert_allclose(value[2], np.zeros(WIDTH), atol=1e-7)  # b_O is 0 at the start
    assert np.all(np.isfinite(jacobian)) and np.all(jacobian[2] == 0.0)
    # What is masked has no influence, and a bias of −∞ is the same as a mask.
    if name == "cross":
        other, *_ = everything(layer, h, e.at[1].add(3.0), jnp.asarray(mask), bias)
        np.testing.assert_array_equal(other, value)
    else:
        assert np.all(jacobian[0, :, 1] == 0.0) and np.any(jacobian[0, :, 0] != 0.0)
    forbidden = jnp.where(jnp.asarray(mask)[None], bias, -jnp.inf)
    everywhere = jnp.ones_like(jnp.asarray(mask))
    same, *_ = everything(layer, h, e, everywhere, forbidden)
    np.testing.assert_allclose(same, value, atol=1e-6)


@pytest.mark.parametrize("name", LAYERS)
def test_mask_and_bias_may_be_left_out(name, rng):
    layer, h = resolve(LAYERS[name]), random_state(rng)
    e, mask, bias = random_inputs(name, rng)
    full, none = jnp.ones_like(mask), jnp.zeros_like(bias)

    @jax.jit
    def values(h, e):
        options = ((None, None), (full, None), (None, none), (full, none))
        return [layer(h, layer.inject(e, *option)) for option in options]

    plain, *others = values(h, e)
    for other in others:
        np.testing.assert_allclose(other, plain, atol=1e-6)


@pytest.mark.parametrize("name", LAYERS)
def test_rounding_bounds_the_float32_error_and_is_not_vacuous(name, rng):
    tightest, layer = np.inf, LAYERS[name]
    for exponent in np.linspace(-6, 6, 25):
        h = random_state(rng, 10.0**exponent)
        e, mask, bias = random_inputs(name, rng, 10.0 ** rng.uniform(-2, 2))
        bias = bias * 10.0 ** rng.uniform(-2, 2)
        layer = _with_output_bias(LAYERS[name], 0.0 if exponent < 2.0 else 1e5)
        value, _, bound, _, _, layer, injected = everything(layer, h, e, mask, bias)
        expected = _from_injected(name, layer, h, injected)
        error = _size64(name, np.asarray(value, np.float64) - expected)
        assert error <= float(bound), exponent
        tightest = min(tightest, float(bound) / max(error, 1e-30))
        if exponent <= 0.0:
            assert float(bound) <= 1e-3 * max(1.0, _size64(name, expected))
    assert tightest < 1000


def _with_output_bias(layer, size):
    if isinstance(layer, RowStochasticAttention):
        return layer
    return eqx.tree_at(lambda x: x.output_bias, layer, size * jnp.linspace(0.1, 1.0, WIDTH))


def _from_injected(name, layer, h, injected):
    """The map with the computed, constant input: what `rounding` refers to, in float64."""
    if name == "average":
        weights, h = _wide(injected, h)
        return np.hstack(
            [w @ part for w, part in zip(weights, np.split(h, HEADS, axis=1), strict=True)]
        )
    (offset,) = _wide(injected.offset)
    mask, bias = offset > -np.inf, np.where(offset > -np.inf, offset, 0.0)
    projections, h = _wide(layer.projections, h)
    beta = float(np.float32(1.0 / np.sqrt(projections.shape[2])))
    if name == "cross":
        keys, values = _wide(injected.keys, injected.values)
        queries = (
            np.einsum("adw,nw->and", projections[0], h) + np.asarray(layer.query_bias)[:, None]
        )
    else:
        shift = np.asarray(injected.shift, np.float64)
        radii = np.array([layer.key_radius, layer.key_radius, layer.value_radius])
        before = np.einsum("padw,nw->pand", projections[:3], h) + shift
        queries, keys, values = _soft64(before, radii[:, None, None, None])
    logits = beta * np.einsum("and,amd->anm", queries, keys)
    logits = np.where(mask, logits + bias, -np.inf)
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    weights = powers / powers.sum(axis=-1, keepdims=True)
    heads = np.einsum("anm,amd->and", weights, values)
    return np.einsum("and,adw->nw", heads, projections[-1]) + np.asarray(layer.output_bias)


@pytest.mark.parametrize("name", LAYERS)
def test_layers_multiply_in_full_precision_on_every_device(name, rng):
    layer, (e, mask, bias) = resolve(LAYERS[name]), random_inputs(name, rng)
    injected = layer.inject(e, mask, bias)
    text = str(jax.make_jaxpr(lambda h: layer(h, injected))(random_state(rng)))
    products = text.count("= dot_general[")
    assert products > 0
    assert text.count("precision=(Precision.HIGHEST, Precision.HIGHEST)") == products


@pytest.mark.parametrize("name", LAYERS)
def test_nan_is_not_masked(name, rng):
    h, (e, mask, bias) = random_state(rng).at[0, 0].set(jnp.nan), random_inputs(name, rng)
    value, *_ = everything(LAYERS[name], h, e, mask, bias)
    assert np.any(np.isnan(value))
    if name in CAPPED:
        broken = with_free(LAYERS[name], LAYERS[name].projections.free.at[0, 0, 0, 0].set(jnp.nan))
        with pytest.raises(ValueError, match="NaN"):
            broken.lipschitz()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (CrossAttention, {"heads": 3}),
        (SelfAttention, {"heads": 0}),
        (RowStochasticAttention, {"heads": 3}),
        (RowStochasticAttention, {"head_width": 0}),
        (CrossAttention, {"cap": 0.0}),
        (SelfAttention, {"cap": float("nan")}),
        (SelfAttention, {"key_radius": -1.0}),
        (CrossAttention, {"value_radius": float("inf")}),
    ],
)
def test_bad_arguments_are_refused(kind, options, assert_helpful):
    with pytest.raises(ValueError) as raised:
        kind(WIDTH, INPUTS, key=jax.random.key(0), **options)
    assert_helpful(raised)


def test_constructors_can_be_traced(filled, rng):
    h = random_state(rng)
    options = {"heads": HEADS, "head_width": 2}
    for name, kind in (("cross", CrossAttention), ("average", RowStochasticAttention)):
        built = filled(lambda key, kind=kind: kind(WIDTH, INPUTS, key=key, **options))
        value, *_ = everything(built, h, *random_inputs(name, rng))
        assert value.shape == h.shape
