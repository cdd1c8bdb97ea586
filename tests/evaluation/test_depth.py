"""What depth buys, on curves whose answer is known."""

import numpy as np
import pytest

from loopwm.errors import UsageError
from loopwm.evaluation.depth import DepthCurve, fit_saturation, spearman


def test_effective_loops_best_depth_and_overthinking_by_hand():
    curve = DepthCurve(np.asarray([[4.0, 2.0, 1.0, 1.0, 2.0], [4.0, 2.0, 1.0, 0.5, 1.0]]))
    np.testing.assert_allclose(curve.effective_loops, [0.5, 0.75])
    np.testing.assert_allclose(curve.mean, [4.0, 2.0, 1.0, 0.75, 1.5])
    assert curve.best_depth == 3
    assert curve.overthinking(3) == pytest.approx(1.0)
    assert curve.overthinking(1) == pytest.approx(-0.25)  # the worst beyond, 1.5, is below 2


def test_overthinking_of_a_perfect_model():
    assert DepthCurve(np.asarray([[1.0, 0.0, 0.0]])).overthinking(1) == 0.0
    assert DepthCurve(np.asarray([[1.0, 0.0, 0.1]])).overthinking(1) == np.inf


@pytest.mark.parametrize("truth", [(0.2, 3.0, 0.4), (0.0, 1.0, 1.5), (5.0, -2.0, 0.1)])
def test_a_saturating_curve_is_found_again(truth):
    floor, gain, rate = truth
    depths = np.arange(1, 20)
    errors = floor + gain * np.exp(-rate * depths)
    fit = fit_saturation(depths, errors)
    np.testing.assert_allclose((fit.floor, fit.gain, fit.rate), truth, rtol=1e-3, atol=1e-4)
    assert fit.residual < 1e-5
    np.testing.assert_allclose(fit(depths), errors, atol=1e-4)


def test_a_curve_that_does_not_saturate_fits_badly(rng):
    assert fit_saturation(np.arange(1, 30), rng.random(29)).residual > 0.1


def test_rank_correlation_by_hand():
    assert spearman(np.asarray([1, 2, 3, 4]), np.asarray([10, 20, 20, 90])) == pytest.approx(
        0.9487, abs=1e-4
    )
    assert spearman(np.arange(5), -np.arange(5)) == pytest.approx(-1.0)
    assert np.isnan(spearman(np.ones(4), np.arange(4)))


@pytest.mark.parametrize(
    "call",
    [
        lambda: DepthCurve(np.ones((0, 3))),
        lambda: DepthCurve(np.ones((3, 1))),
        lambda: DepthCurve(np.asarray([[1.0, np.nan]])),
        lambda: DepthCurve(np.asarray([[1.0, -1.0]])),
        lambda: DepthCurve(np.ones((2, 4))).overthinking(3),
        lambda: fit_saturation(np.asarray([1, 2]), np.asarray([1.0, 0.5])),
        lambda: fit_saturation(np.asarray([1, 2, 3]), np.asarray([1.0, np.inf, 0.5])),
    ],
)
def test_curves_without_an_answer_are_refused(call, assert_helpful):
    with pytest.raises(UsageError) as raised:
        call()
    assert_helpful(raised)
