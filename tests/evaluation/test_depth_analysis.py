"""Depth of a world model that is known at every depth."""

import dataclasses

import known_depth
import numpy as np
import pytest
import studies
from known_depth import DEPTHS, FALLING, SIZES, analyse

from loopwm.errors import UsageError
from loopwm.evaluation import DepthConfig, HaltingKind, halt, measure_depth
from loopwm.evaluation.depth_analysis import DepthTraces


def test_errors_are_those_of_every_depth():
    analysis = analyse()
    assert analysis.traces.errors.shape == (4, 13)
    expected = np.outer(SIZES, [*FALLING, *[0.125] * 7])
    np.testing.assert_allclose(analysis.traces.errors, expected, rtol=1e-5)
    # The curve ends at three times the trained depth; halting goes on to 12 loops here.
    assert analysis.curve.errors.shape == (4, 10)
    np.testing.assert_allclose(analysis.curve.mean[:6], 3.75 * np.asarray(FALLING), rtol=1e-5)


def test_effective_loops_and_overthinking_are_counted_from_the_trained_depth():
    analysis = analyse()
    assert (analysis.depth, analysis.trained, analysis.diverged) == (3, 3, None)
    assert analysis.effective == 1.0
    assert analysis.overthinking == pytest.approx(1.0)  # 0.25 at depth 4, after 0.125 at 3
    later = analyse(trained=5)
    assert later.effective == pytest.approx(4 / 5)
    assert later.overthinking == pytest.approx(0.0, abs=1e-6)
    assert len(later.curve.mean) == 16


def test_a_saturating_curve_is_fitted():
    fit = analyse([0.5 + 2.0 * 0.5**t for t in range(10)]).fit
    assert fit.rate == pytest.approx(np.log(2.0), rel=1e-3)
    assert (fit.floor, fit.gain) == pytest.approx((0.5 * 3.75, 2.0 * 3.75), rel=1e-3)


def test_residual_halting_follows_the_depth_that_is_needed():
    analysis = analyse(true_depth=DEPTHS, config={"residual_tolerance": 0.25})
    # size · 2^−t ≤ 0.25 for the first time at t = 2 + log2(size).
    np.testing.assert_array_equal(analysis.residual.loops, [2, 3, 4, 5])
    assert analysis.residual.met.all() and analysis.residual.correlation == pytest.approx(1.0)
    np.testing.assert_allclose(analysis.residual.errors, [0.25, 0.25, 1.0, 1.0], rtol=1e-5)
    assert analysis.certified is None


def test_the_tolerance_is_the_median_residual_at_the_models_depth():
    # Residuals after 3 loops: 1/8, 1/4, 1/2, 1; their median 0.375, to two digits 0.38.
    assert analyse().residual.tolerance == 0.38


def test_certified_halting_where_a_certificate_contracts():
    analysis = analyse(certificate=studies.CERTIFICATE, config={"certified_tolerance": 0.1})
    # The bound is ten residuals: 10 · size · 2^−t ≤ 0.1, 7 loops for size 1.
    np.testing.assert_array_equal(analysis.certified.loops, [7, 8, 9, 10])
    assert np.isnan(analysis.certified.correlation)  # no true depth was given
    growing = dataclasses.replace(studies.CERTIFICATE, rate=1.2)
    assert analyse(certificate=growing).certified is None


def test_a_rule_that_is_never_met_says_so():
    found = analyse(certificate=studies.CERTIFICATE, config={"certified_tolerance": 1e-9})
    assert not found.certified.met.any()
    np.testing.assert_array_equal(found.certified.loops, 12)


def test_other_tolerances_from_the_same_traces():
    traces = DepthTraces(
        errors=np.asarray([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]]),
        residuals=np.asarray([[np.inf, 0.5, 0.1], [np.inf, 0.1, 0.2]]),
        bounds=np.full((2, 3), np.inf),
    )
    found = halt(traces, HaltingKind.RESIDUAL, 0.3, np.asarray([2, 1]))
    np.testing.assert_array_equal(found.loops, [2, 1])
    np.testing.assert_array_equal(found.errors, [1.0, 2.0])
    assert found.correlation == pytest.approx(1.0)
    assert not halt(traces, HaltingKind.CERTIFIED, 0.3).met.any()


def test_what_diverges_is_neither_masked_nor_fatal():
    analysis = analyse([1.0, 0.5, 0.25, 0.5, np.inf], true_depth=DEPTHS)
    assert analysis.diverged == 4 and len(analysis.curve.mean) == 4
    assert analysis.effective == pytest.approx(2 / 3) and np.isnan(analysis.overthinking)
    assert np.isinf(analysis.traces.errors[:, 4:]).all()
    lost = analyse([1.0, np.nan])
    assert lost.curve is None and lost.fit is None and np.isnan(lost.effective)
    assert lost.diverged == 1
    still = analyse(sizes=[np.nan, 1.0])
    assert still.residual is None


@pytest.mark.parametrize(
    "call",
    [
        lambda: DepthConfig(transitions=0),
        lambda: DepthConfig(multiple=1),
        lambda: DepthConfig(certified_tolerance=0.0),
        lambda: DepthConfig(residual_tolerance=float("nan")),
        lambda: known_depth.transitions([]),
        lambda: analyse(trained=0),
        lambda: halt(
            DepthTraces(np.ones((1, 2)), np.ones((1, 2)), np.ones((1, 2))),
            HaltingKind.RESIDUAL,
            0.0,
        ),
        lambda: measure_depth(
            known_depth.Loopless(), known_depth.NORMALIZER, known_depth.transitions([1.0]), None
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(call, assert_helpful):
    with pytest.raises(UsageError) as raised:
        call()
    assert_helpful(raised)
