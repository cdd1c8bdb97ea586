"""Bounds and estimates: different types, and rules that hold for real maps."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from loopwm.errors import UsageError
from loopwm.stability import (
    Estimate,
    Level,
    Norm,
    UpperBound,
    bounds,
    chain,
    converted,
    exact_norm,
    residual,
    scaled,
    total,
)

_SEEDS = st.integers(0, 2**16)


def _matrices(seed, count=2):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(5, 5)) * 10.0 ** rng.integers(-3, 4) for _ in range(count)]


@given(_SEEDS)
def test_rules_bound_the_maps_they_are_about(seed):
    one, two = _matrices(seed)
    norms = exact_norm(one), exact_norm(two)
    cases = [
        (chain(*norms), one @ two),
        (total(*norms), one + two),
        (residual(norms[0]), np.eye(5) + one),
        (scaled(norms[0], -3.0), -3.0 * one),
    ]
    for bound, matrix in cases:
        assert isinstance(bound, UpperBound) and bound.norm is Norm.TWO
        assert np.linalg.norm(matrix, 2) <= float(bound)


@given(_SEEDS)
def test_a_converted_bound_holds_in_the_other_norm(seed):
    (matrix,) = _matrices(seed, 1)
    # ‖x‖_∞ ≤ ‖x‖₂ ≤ √5 ‖x‖_∞, so κ = √5.
    bound = converted(exact_norm(matrix), Norm.INFINITY, np.sqrt(5.0))
    assert np.abs(matrix).sum(1).max() <= float(bound) and bound.norm is Norm.INFINITY


def test_rules_by_hand():
    a, b = UpperBound(2.0), UpperBound(3.0)
    assert float(chain(a, b)) == pytest.approx(6.0)
    assert float(total(a, b)) == pytest.approx(5.0)
    assert float(residual(b)) == pytest.approx(4.0)
    assert float(scaled(b, -0.5)) == pytest.approx(1.5)
    assert float(chain()) == pytest.approx(1.0)


def test_the_weakest_level_stays():
    ball = UpperBound(0.5, level=Level.BALL)
    assert chain(UpperBound(1.0), ball).level is Level.BALL
    assert total(ball, UpperBound(0.1, level=Level.LINEAR)).level is Level.LINEAR
    assert scaled(ball, 2.0).level is Level.BALL
    assert converted(ball, Norm.P, 1.5).level is Level.BALL


@pytest.mark.parametrize(
    "rule",
    [
        lambda e: chain(UpperBound(1.0), e),
        lambda e: total(e),
        residual,
        lambda e: scaled(e, 0.5),
        lambda e: converted(e, Norm.P, 2.0),
    ],
)
def test_nothing_is_concluded_from_an_estimate(rule, assert_helpful):
    # Annotations are checked in tests, and stop it first; outside it is one sentence.
    with pytest.raises((UsageError, TypeCheckError), match="Estimate"):
        rule(Estimate(0.5))
    with pytest.raises(UsageError, match="Estimate is not a proven bound") as raised:
        bounds._common((Estimate(0.5),))
    assert_helpful(raised)


def test_different_norms_are_not_mixed(assert_helpful):
    with pytest.raises(UsageError, match=r"different norms \(2, inf\)") as raised:
        chain(UpperBound(1.0), UpperBound(1.0, Norm.INFINITY))
    assert_helpful(raised)


@pytest.mark.parametrize("condition", [0.5, float("nan")])
def test_a_conversion_cannot_gain(condition, assert_helpful):
    with pytest.raises(UsageError, match="condition") as raised:
        converted(UpperBound(1.0), Norm.P, condition)
    assert_helpful(raised)


def test_levels_fit_their_types(assert_helpful):
    for wrong in (
        lambda: UpperBound(1.0, level=Level.EMPIRICAL),
        lambda: Estimate(1.0, level=Level.GLOBAL),
    ):
        with pytest.raises(UsageError) as raised:
            wrong()
        assert_helpful(raised)
    assert Estimate(jnp.asarray(0.5)).level is Level.EMPIRICAL
    assert float(Estimate(jnp.asarray(0.5))) == 0.5


@pytest.mark.parametrize("number", [-3.0, -1e-300, float("nan"), -float("inf"), np.float64("nan")])
def test_numbers_that_no_constant_has_are_refused(number, assert_helpful):
    with pytest.raises(UsageError, match="bounds nothing") as raised:
        UpperBound(number)
    assert_helpful(raised)


def test_a_computed_nan_is_passed_on():
    with pytest.raises(UsageError, match="bounds nothing"):
        UpperBound(jnp.asarray(-1.0))
    assert np.isnan(float(UpperBound(jnp.asarray(jnp.nan))))
    assert float(UpperBound(float("inf"))) == np.inf
