"""A certificate claims no more than the bounds it rests on: their norm, level and subject."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

from loopwm.errors import UsageError
from loopwm.stability import (
    LayerBound,
    Level,
    Mode,
    Norm,
    UpdateDeclaration,
    UpperBound,
    certify,
)

STATE = np.zeros(3, np.float32)


class _Layer(eqx.Module):
    """A layer with the bound it is told to have."""

    bound: UpperBound

    def __call__(self, x, *, key=None):
        return 0.1 * x

    def lipschitz(self):
        return self.bound


class _Core(eqx.Module):
    """An update that declares what it is told to."""

    bound: UpperBound
    norm: Norm = Norm.P
    mode: Mode = Mode.CONTRACTIVE

    def __call__(self, h):
        return 0.1 * h

    def declare(self):
        layers = (LayerBound("layer", self.bound),)
        return UpdateDeclaration(layers, 0.9, 0.0, 0.0, norm=self.norm, mode=self.mode, radius=1.0)


class _Tripled(_Layer):
    def __call__(self, x):
        return 3.0 * super().__call__(x)


class _TripledCore(_Core):
    def __call__(self, h):
        return 30.0 * h


class _Restated(_Tripled):
    def lipschitz(self):
        return UpperBound(0.75)


@pytest.mark.parametrize(
    ("inside", "outside"),
    [
        (Norm.INFINITY, Norm.P),
        (Norm.TOKENS, Norm.P),
        (Norm.P, Norm.P),
        (Norm.TWO, Norm.INFINITY),
        (Norm.INFINITY, Norm.TOKENS),
    ],
)
def test_layers_in_another_norm_than_the_declared_one_are_refused(inside, outside, assert_helpful):
    with pytest.raises(UsageError, match=f"the {inside}-norm") as raised:
        certify(_Core(UpperBound(1.0, inside), outside))
    assert_helpful(raised)


@pytest.mark.parametrize("mode", [Mode.CONTRACTIVE, Mode.BOUNDED])
@pytest.mark.parametrize("level", [Level.BALL, Level.LINEAR])
def test_bounds_of_a_set_alone_are_refused(mode, level, assert_helpful):
    bound = UpperBound(0.5, level=level)
    for module in (_Core(bound, mode=mode), eqx.nn.Sequential([_Layer(bound)])):
        with pytest.raises(UsageError, match=f"level '{level}'") as raised:
            certify(module, STATE)
        assert_helpful(raised)


def test_no_factor_leads_to_the_two_norm_from_one_that_counts_entries():
    for norm in (Norm.INFINITY, Norm.TOKENS):
        assert certify(_Layer(UpperBound(0.5, norm)), STATE).condition == float("inf")
        assert certify(_Core(UpperBound(0.5, norm), norm)).condition == float("inf")
    assert certify(_Layer(UpperBound(0.5)), STATE).condition == 1.0


@pytest.mark.parametrize("kind", [_Tripled, _TripledCore])
def test_a_claim_about_an_overridden_call_is_not_inherited(kind, assert_helpful):
    with pytest.raises(UsageError, match=f"{kind.__name__} has a __call__") as raised:
        certify(kind(UpperBound(0.5)), STATE)
    assert_helpful(raised)
    assert certify(_Restated(UpperBound(0.5)), STATE).rate == 0.75


def test_complex_weights_are_refused(key, assert_helpful):
    linear = eqx.nn.Linear(3, 3, key=key)
    for weight in (jnp.eye(3) * 2j, np.eye(3) * 2j, 2j):
        module = eqx.tree_at(lambda m: m.weight, linear, weight)
        with pytest.raises(UsageError, match="complex") as raised:
            certify(eqx.nn.Sequential([module, eqx.nn.Lambda(jnp.abs)]), STATE)
        assert_helpful(raised)
