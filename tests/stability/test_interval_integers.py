"""Integers that depend on the state: bits and ranges are refused, where JAX would wrap around."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from loopwm.errors import UsageError
from loopwm.stability import Interval, enclose

BOX = Interval(np.array([3.5]), np.array([4.5]))


def _number(x, dtype=jnp.int32):
    return x.astype(dtype)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: _number(x) & 1,
        lambda x: _number(x) | 8,
        lambda x: _number(x) ^ 8,
        lambda x: ~_number(x),
        lambda x: jax.lax.reduce_and(jnp.stack([_number(x), _number(x)]), (0,)),
        lambda x: jax.lax.reduce_or(jnp.stack([_number(x), _number(x)]), (0,)),
    ],
    ids=["and", "or", "xor", "not", "reduce_and", "reduce_or"],
)
def test_bitwise_primitives_are_refused(function, assert_helpful):
    with pytest.raises(UsageError, match="bit by bit") as raised:
        enclose(lambda x: function(x).astype(jnp.float32), BOX)
    assert_helpful(raised)


def test_the_same_primitives_hold_for_truth_values():
    def function(x):
        above, below = x > 4, x < 4.2
        pairs = [above & below, above | below, above ^ below, ~above]
        whole = [jnp.all(jnp.stack([above, below]), 0), jnp.any(jnp.stack([above, below]), 0)]
        return jnp.stack([*pairs, *whole]).astype(jnp.float32)

    found = enclose(function, BOX)
    values = np.stack([function(jnp.asarray([x])) for x in np.linspace(3.5, 4.5, 21)])
    assert np.all(found.low <= values.min(0)) and np.all(values.max(0) <= found.high)


@pytest.mark.parametrize(
    ("low", "high", "types"),
    [
        (290.0, 310.0, (jnp.int8,)),
        (290.0, 310.0, (jnp.uint8,)),
        (-5.0, -3.0, (jnp.uint8,)),
        (-5.0, -3.0, (jnp.int32, jnp.uint32)),
        (290.0, 310.0, (jnp.int32, jnp.int8)),
        (120.0, 130.0, (jnp.int8,)),
    ],
    ids=str,
)
def test_a_type_too_small_for_its_numbers_is_refused(low, high, types, assert_helpful):
    def function(x):
        for dtype in types:
            x = _number(x, dtype)
        return x.astype(jnp.float32)

    with pytest.raises(UsageError, match="range of") as raised:
        enclose(function, Interval(np.array([low]), np.array([high])))
    assert_helpful(raised)


@pytest.mark.parametrize("types", [(jnp.int8,), (jnp.uint8,), (jnp.int32, jnp.int8)], ids=str)
def test_a_type_that_holds_its_numbers_is_followed(types):
    def function(x):
        for dtype in types:
            x = _number(x, dtype)
        return x.astype(jnp.float32)

    found = enclose(function, Interval(np.array([3.5]), np.array([126.5])))
    assert float(found.low[0]) == 3.0 and float(found.high[0]) == 126.0
