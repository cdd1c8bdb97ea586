"""Bounds of capped layers hold in every program that computes the caps, and in every precision."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from loopwm.errors import UsageError
from loopwm.nn import (
    AttentionLayer,
    CappedConvolution,
    CappedLinear,
    ConvConvexPotential,
    ConvexPotential,
    CrossAttention,
    L1Cap,
    RowStochasticAttention,
    Sandwich,
    SelfAttention,
    SoftNorm,
    resolve,
)
from loopwm.stability import Norm, Padding

KEY = jax.random.key(0)


@pytest.mark.parametrize(
    "layer",
    [
        CappedLinear(3, 3, key=KEY),
        CappedConvolution(1, 2, (3,), key=KEY),
        CrossAttention(2, 1, heads=1, key=KEY),
        SelfAttention(2, 1, heads=1, key=KEY),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_bound_of_a_capped_weight_allows_for_other_rounding(layer):
    numbers = eqx.filter_jit(resolve)(layer)  # as one program has computed them
    moved = jax.tree.map(lambda x: x * (1.0 + 1e-6) if eqx.is_inexact_array(x) else x, numbers)
    assert float(layer.lipschitz()) > float(moved.lipschitz())
    assert float(layer.lipschitz()) <= 1.0


def test_a_sandwich_allows_for_other_rounding_up_to_its_cap():
    layer = Sandwich(2, 3, 1, key=KEY)
    numbers = eqx.filter_jit(resolve)(layer)
    claimed, found = float(layer.lipschitz()), float(numbers.lipschitz())
    assert claimed > (1.0 + 1e-6) * found or claimed >= 1.0
    assert claimed <= 1.0


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_rounding_in_low_precision_is_never_negative(dtype):
    # The usual n·u/(1 − n·u) is negative from n = 1/u terms on.
    layers = [
        (ConvexPotential(2500, 2, 1, key=KEY), jnp.ones(2500, dtype)),
        (ConvConvexPotential(900, 2, 1, (3,), key=KEY), jnp.ones((3, 900), dtype)),
    ]
    for layer, y in layers:
        weight = jnp.full(layer.weight.free.shape, 1e-3, dtype)
        layer = eqx.tree_at(lambda m: m.weight, layer, weight)
        injected = jnp.zeros((*y.shape[:-1], 2), dtype)
        assert not float(layer.rounding(y, injected)) < 1e-3


def test_low_precision_does_not_turn_signs_around():
    free = jnp.ones((1, 200), jnp.bfloat16)
    assert np.all(np.asarray(L1Cap(free).value(), np.float32) >= 0)


def test_averages_over_too_many_tokens_are_refused(assert_helpful):
    layer = RowStochasticAttention(2, 1, key=KEY)
    with pytest.raises(UsageError, match="too many") as raised:
        layer.inject(jnp.ones((2000, 1), jnp.float16))
    assert_helpful(raised.value)


def test_paddings_and_norms_may_be_texts():
    jaxtyping.config.update("jaxtyping_disable", True)  # as users run it
    try:
        layer = CappedConvolution(1, 1, (3,), padding="circular", grid=(4,), key=KEY)
        assert layer.padding is Padding.CIRCULAR and layer.weight.padding is Padding.CIRCULAR
        attention = CrossAttention(2, 1, heads=1, key=KEY)
        assert AttentionLayer(attention, SoftNorm(1.0), jnp.zeros(()), "2,inf").norm is Norm.TOKENS
        averages = RowStochasticAttention(2, 1, key=KEY)
        assert averages.lipschitz("inf").norm is Norm.INFINITY
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
