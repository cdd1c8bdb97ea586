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
    certify_transition,
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


class _Undeclared(eqx.Module):
    def declare(self):
        return None

    def declare_transition(self):
        return {"radius": 1.0}


class _Constant(eqx.Module):
    lipschitz: float = 0.5

    def __call__(self, h):
        return 0.5 * h


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: certify(_Undeclared()), "returned NoneType"),
        (lambda: certify_transition(_Undeclared()), "returned dict"),
        (lambda: certify(_Core), "is a class"),
        (lambda: certify_transition(_Undeclared), "declares no bound"),
        (lambda: certify(_Constant(), STATE), "no method"),
    ],
)
def test_what_declares_nothing_is_refused(make, words, assert_helpful):
    with pytest.raises(UsageError, match=words) as raised:
        make()
    assert_helpful(raised.value)


def test_a_certificate_computes_in_float64_whatever_it_is_given():
    certificate = certify(_Core(UpperBound(0.9)))
    found = certificate.error_bound(jnp.float32(0.123), jnp.float32(1e-7))
    assert type(found) is float
    assert found == certificate.error_bound(float(np.float32(0.123)), float(np.float32(1e-7)))
    assert certificate.sufficient_depth(jnp.float32(1e-3), jnp.float32(1.0)) > 0


def test_a_depth_suffices_for_errors_whose_quotient_vanishes():
    certificate = certify(_Core(UpperBound(0.9)))
    depth = certificate.sufficient_depth(1e-300, 1e300)
    assert depth == pytest.approx(-600 * np.log(10.0) / np.log(certificate.rate), abs=1.0)
