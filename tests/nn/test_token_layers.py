"""Layers of tokens state their constants in a norm in which what they wrap has one."""

import jax.numpy as jnp
import pytest

from loopwm.errors import UsageError
from loopwm.nn import AttentionLayer, ConvexPotential, CrossAttention, SelfAttention, SoftNorm
from loopwm.nn.tokens import TokenWise
from loopwm.stability import Norm


def _attention(kind, norm, key):
    return AttentionLayer(kind(4, 3, heads=2, key=key), SoftNorm(2.0), jnp.zeros(()), norm)


def test_self_attention_has_no_constant_in_the_two_norm(key, assert_helpful):
    with pytest.raises(UsageError, match="in the 2,inf-norm") as raised:
        _attention(SelfAttention, Norm.TWO, key).lipschitz()
    assert_helpful(raised)
    assert _attention(SelfAttention, Norm.TOKENS, key).lipschitz().norm is Norm.TOKENS


@pytest.mark.parametrize("norm", [Norm.TWO, Norm.TOKENS])
def test_cross_attention_has_one_in_either(norm, key):
    assert _attention(CrossAttention, norm, key).lipschitz().norm is norm


def test_a_layer_by_token_needs_one_for_vectors(key, assert_helpful):
    inner = ConvexPotential(4, 4, 3, key=key)
    for norm in (Norm.TWO, Norm.TOKENS):
        assert TokenWise(inner, norm).lipschitz().norm is norm
    nested = TokenWise(TokenWise(inner, Norm.TOKENS), Norm.TWO)
    with pytest.raises(UsageError, match="needed in the 2-norm") as raised:
        nested.lipschitz()
    assert_helpful(raised)
