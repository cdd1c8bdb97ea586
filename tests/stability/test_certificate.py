"""Certificates: the numbers by hand, and every refusal a sentence with a remedy."""

import dataclasses

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopwm.errors import UsageError
from loopwm.stability import (
    Certificate,
    LayerBound,
    Level,
    Mode,
    Norm,
    TransitionDeclaration,
    UpdateDeclaration,
    UpperBound,
    certify,
    certify_transition,
)


class _Declared(eqx.Module):
    """A module with a declaration and one weight, as a foreign core would have them."""

    weight: object
    constants: tuple[float, ...] = (1.0, 1.0)
    scale: float = 0.95
    low: float = 0.05
    high: float = 0.6

    def declare(self) -> UpdateDeclaration:
        layers = tuple(
            LayerBound(f"layer {i}", UpperBound(c)) for i, c in enumerate(self.constants)
        )
        return UpdateDeclaration(layers, self.scale, self.low, self.high)


class _Other(eqx.Module):
    """A module that declares what it is told to."""

    declaration: UpdateDeclaration = eqx.field(static=True)

    def declare(self) -> UpdateDeclaration:
        return self.declaration


class _Outer(eqx.Module):
    """A world model that declares the radius it is told to."""

    radius: float

    def declare_transition(self) -> TransitionDeclaration:
        return TransitionDeclaration(self.radius)


def _certificate(**changes) -> Certificate:
    return certify(_Declared(jnp.ones(3), **changes))


def test_rate_by_hand():
    certificate = _certificate()
    assert certificate.level is Level.GLOBAL and certificate.norm is Norm.P
    assert certificate.gamma == pytest.approx(0.95)
    assert certificate.rate == pytest.approx(0.6 + 0.4 * 0.95)  # 0.98
    assert certificate.dtype == "float32"
    assert certificate.summary() == {"level": "global", "rate": certificate.rate, "norm": "P"}


def test_gamma_is_the_product_of_the_layers():
    certificate = _certificate(constants=(1.1, 0.5, 1.2), scale=0.9, low=0.1, high=0.5)
    assert certificate.gamma == pytest.approx(0.9 * 1.1 * 0.5 * 1.2)
    assert certificate.rate == pytest.approx(0.5 + 0.5 * 0.594)
    assert [layer.constant for layer in certificate.layers] == [1.1, 0.5, 1.2]


@pytest.mark.parametrize("gamma", [0.05, 0.2, 0.5, 0.95])
def test_condition_is_the_supremum_over_retentions(gamma):
    certificate = _certificate(scale=gamma)
    grid = np.linspace(0.05, 0.6, 20001)
    p = 1.0 / ((1 - grid) * (grid + (1 - grid) * gamma))
    highest = np.sqrt(p.max() / p.min())
    assert highest <= certificate.condition * (1 + 1e-12)
    assert certificate.condition <= highest * (1 + 1e-6)  # and not a loose bound


@given(
    gamma=st.floats(0.01, 0.99),
    ends=st.tuples(st.floats(0.01, 0.98), st.floats(0.01, 0.98)).filter(lambda e: e[0] < e[1]),
    seed=st.integers(0, 2**16),
)
def test_condition_bounds_any_retention_in_the_range(gamma, ends, seed):
    certificate = _certificate(scale=gamma, low=ends[0], high=ends[1])
    retention = np.random.default_rng(seed).uniform(*ends, size=64)
    p = 1.0 / ((1 - retention) * (retention + (1 - retention) * gamma))
    assert np.sqrt(p.max() / p.min()) <= certificate.condition * (1 + 1e-9)


def test_state_bound_by_hand(assert_helpful):
    certificate = dataclasses.replace(_certificate(), rate=0.9)
    # h⁺ = 0.9 h + 1 from 2 goes up to 10, with steps of 0.8, 0.72, …
    assert certificate.state_bound(0.8, 2.0) == pytest.approx(10.0)
    assert certificate.state_bound(0.8, 2.0, 0.01) == pytest.approx(10.2)
    for arguments in ((-1.0,), (1.0, float("nan")), (1.0, 0.0, float("inf"))):
        with pytest.raises(UsageError, match="finite distance") as raised:
            certificate.state_bound(*arguments)
        assert_helpful(raised)


def test_error_bound_by_hand(assert_helpful):
    certificate = _certificate()  # ρ = 0.98
    assert certificate.error_bound(0.5) == pytest.approx(0.98 * 0.5 / 0.02)
    assert certificate.error_bound(0.5, 0.1) == pytest.approx((0.98 * 0.5 + 0.1) / 0.02)
    for arguments in ((-1.0,), (float("nan"),), (0.5, float("inf"))):
        with pytest.raises(UsageError, match="distance") as raised:
            certificate.error_bound(*arguments)
        assert_helpful(raised)


@pytest.mark.parametrize("norm", [Norm.TWO, Norm.INFINITY, Norm.TOKENS])
def test_other_norms_take_the_rate_as_it_is(norm):
    layers = (LayerBound("layer", UpperBound(0.9, norm)),)
    module = _Other(UpdateDeclaration(layers, 1.0, 0.1, 0.5, norm=norm))
    certificate = certify(module)
    assert certificate.norm is norm
    assert certificate.condition == (1.0 if norm is Norm.TWO else float("inf"))
    assert certificate.rate == pytest.approx(0.5 + 0.5 * 0.9)
    bare = certify(_Other(UpdateDeclaration(layers, 0.5, 0.0, 0.0, norm=norm)))
    assert bare.rate == pytest.approx(0.45)


def test_a_bounded_core_may_expand_and_states_its_box():
    layers = (LayerBound("layer", UpperBound(3.0)),)
    module = _Other(UpdateDeclaration(layers, 1.0, 0.1, 0.5, mode=Mode.BOUNDED, radius=2.0))
    certificate = certify(module)
    assert certificate.level is Level.BALL and certificate.radius == 2.0
    assert certificate.rate == pytest.approx(0.1 + 0.9 * 3.0) and not certificate.contracts
    retention = np.linspace(0.1, 0.5, 2001)
    p = 1.0 / ((1 - retention) * (retention + (1 - retention) * 3.0))
    assert np.sqrt(p.max() / p.min()) <= certificate.condition * (1 + 1e-12)


@pytest.mark.parametrize("radius", [None, 0.0, float("inf"), float("nan")])
def test_a_bounded_core_without_a_box_is_refused(radius, assert_helpful):
    layers = (LayerBound("layer", UpperBound(3.0)),)
    with pytest.raises(UsageError, match="radius") as raised:
        certify(_Other(UpdateDeclaration(layers, 1.0, 0.1, 0.5, mode=Mode.BOUNDED, radius=radius)))
    assert_helpful(raised)


def test_the_ball_of_a_transition(assert_helpful):
    certificate = certify_transition(_Outer(2.5))
    assert certificate.level is Level.BALL and certificate.radius == 2.5
    assert "every horizon" in certificate.statement()
    for wrong, said in ((_Outer(float("nan")), "radius"), (eqx.nn.Identity(), "no bound")):
        with pytest.raises(UsageError, match=said) as raised:
            certify_transition(wrong)
        assert_helpful(raised)


def test_refuses_a_module_without_declaration(assert_helpful):
    with pytest.raises(UsageError, match="Identity does not declare") as raised:
        certify(eqx.nn.Identity())
    assert_helpful(raised)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_refuses_weights_below_float32(dtype, assert_helpful):
    with pytest.raises(UsageError, match=jnp.dtype(dtype).name) as raised:
        certify(_Declared(jnp.ones(3, dtype)))
    assert_helpful(raised)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
@pytest.mark.parametrize("backend", [jnp, np])
def test_refuses_nonfinite_weights(bad, backend, assert_helpful):
    weight = backend.asarray([1.0, float(bad)], dtype="float32")
    with pytest.raises(UsageError, match="NaN or infinite") as raised:
        certify(_Declared(weight))
    assert_helpful(raised)


@pytest.mark.parametrize("constants", [(1.0, 1.06), (2.0,), (float("inf"),)])
def test_refuses_gamma_not_below_one(constants, assert_helpful):
    with pytest.raises(UsageError, match="not below 1") as raised:
        _certificate(constants=constants)
    assert_helpful(raised)


@pytest.mark.parametrize("low, high", [(0.0, 0.6), (0.05, 1.0), (0.6, 0.05), (-0.1, 0.5)])
def test_refuses_a_retention_outside_the_open_interval(low, high, assert_helpful):
    with pytest.raises(UsageError, match="retention") as raised:
        _certificate(low=low, high=high)
    assert_helpful(raised)


@given(st.floats(1e-6, 1e3), st.floats(1e-6, 1e3))
def test_sufficient_depth_suffices_and_one_less_does_not(tolerance, initial_error):
    certificate = _certificate()
    depth = certificate.sufficient_depth(tolerance, initial_error)
    assert certificate.rate**depth * initial_error <= tolerance * (1 + 1e-9)
    if depth > 0:
        assert certificate.rate ** (depth - 1) * initial_error > tolerance * (1 - 1e-9)


def test_sufficient_depth_closed_form():
    certificate = _certificate()
    assert certificate.sufficient_depth(0.01, 1.0) == int(np.ceil(np.log(0.01) / np.log(0.98)))
    assert certificate.sufficient_depth(1.0, 1.0) == 0
    assert certificate.sufficient_depth(1.0, 0.0) == 0


@pytest.mark.parametrize("tolerance", [0.0, -1.0, float("nan")])
def test_sufficient_depth_refuses_a_tolerance_that_is_not_positive(tolerance, assert_helpful):
    with pytest.raises(UsageError, match="tolerance") as raised:
        _certificate().sufficient_depth(tolerance, 1.0)
    assert_helpful(raised)


@pytest.mark.parametrize("initial_error", [-1.0, float("inf"), float("nan")])
def test_sufficient_depth_refuses_an_initial_error_that_is_no_distance(
    initial_error, assert_helpful
):
    with pytest.raises(UsageError, match="initial_error") as raised:
        _certificate().sufficient_depth(0.1, initial_error)
    assert_helpful(raised)
