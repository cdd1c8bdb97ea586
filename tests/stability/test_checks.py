"""What voids a certificate is refused in one sentence."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from loopwm.errors import UsageError
from loopwm.stability import certify, check_module, check_update

STATE = np.zeros(3, np.float32)


class _Map(eqx.Module):
    weight: object

    def __call__(self, h):
        return 0.5 * h


def _with_dropout(inference):
    linear = eqx.nn.Linear(3, 3, key=jax.random.key(0))
    return eqx.nn.Sequential([linear, eqx.nn.Dropout(0.1, inference=inference)])


def test_names_the_types_of_the_weights():
    assert check_module(_Map(jnp.eye(3))) == "float32"
    assert check_module(_Map(None)) == "none"
    assert check_module(_Map((jnp.eye(3), np.eye(3)))) == "float32, float64"
    assert check_module(_with_dropout(inference=True)) == "float32"


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (lambda: _with_dropout(inference=False), "dropout"),
        (lambda: eqx.nn.make_with_state(eqx.nn.BatchNorm)(3, "batch", mode="ema")[0], "state"),
        (lambda: _Map(np.eye(3, dtype=np.int32)), "int32"),
        (lambda: _Map(jnp.eye(3, dtype=jnp.bfloat16)), "bfloat16"),
        (lambda: _Map(np.asarray([np.nan])), "NaN"),
        (lambda: _Map(np.asarray([np.inf])), "infinite"),
    ],
    ids=["dropout", "state", "integers", "bfloat16", "NaN", "infinity"],
)
def test_a_module_that_cannot_be_certified(module, said, assert_helpful):
    built = module()
    for check in (check_module, lambda m: certify(m, STATE)):
        with pytest.raises(UsageError, match=said) as raised:
            check(built)
        assert_helpful(raised)


def _fails(h):
    raise RuntimeError("no such table")


@pytest.mark.parametrize(
    ("update", "state", "said"),
    [
        (lambda h: h[:2], STATE, r"shape \(3,\)"),
        (lambda h: jnp.concatenate([h, h]), STATE, r"to shape \(6,\)"),
        (lambda h: h.astype(jnp.int32), STATE, "int32"),
        (lambda h: (h, h), STATE, "one array"),
        (lambda h: h + jax.random.normal(jax.random.key(0), (3,)), STATE, "random"),
        (lambda h: h if h[0] > 0 else -h, STATE, "traced"),
        (_fails, STATE, "no such table"),
        (lambda h, t: h, STATE, "one array"),
        (lambda h: h, np.zeros(3, np.int32), "int32"),
        (lambda h: h, jnp.zeros(3, jnp.bfloat16), "bfloat16"),
    ],
    ids=["shorter", "longer", "type", "pair", "noise", "branch", "error", "index", "int", "bf16"],
)
def test_an_update_that_cannot_be_repeated(update, state, said, assert_helpful):
    with pytest.raises(UsageError, match=said) as raised:
        check_update(update, state)
    assert_helpful(raised)


def test_an_update_that_can_be_repeated():
    check_update(lambda h: 0.5 * h, STATE)
    check_update(jax.jit(lambda h: jnp.tanh(h)), np.zeros((2, 3, 4)).astype(np.float32))
    # A key that is used for nothing draws nothing.
    check_update(lambda h: jax.lax.fori_loop(0, 3, lambda _, x: 0.5 * x, h), STATE)
