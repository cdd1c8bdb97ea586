"""Interquartile means and bootstrap intervals against numbers worked out by hand."""

import numpy as np
import pytest

from loopwm.evaluation.compare.statistics import Interval, bootstrap, iqm, iqm_interval, profile


def test_iqm_leaves_out_a_quarter_on_each_side():
    assert iqm(np.array([1.0, 2.0, 3.0, 4.0, 100.0])) == 3.0
    assert iqm(np.array([8.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])) == 4.5
    np.testing.assert_array_equal(iqm(np.array([[1.0, 2.0, 6.0], [3.0, 3.0, 3.0]])), [3.0, 3.0])


def test_strata_are_pooled():
    found = iqm_interval([np.array([1.0, 2.0]), np.array([3.0, 100.0])])
    assert found.estimate == 2.5
    assert found.low is not None and found.high is not None
    # Each stratum keeps its two values, so one quarter at each end comes from one of them.
    assert 2.0 <= found.low < 2.5 < found.high <= 51.0


def test_one_seed_has_no_interval():
    assert iqm_interval([np.array([2.0])]) == Interval(2.0, None, None)
    assert iqm_interval([np.array([2.0]), np.array([1.0, 3.0])]).low is None


def test_seeds_that_agree_have_no_width():
    assert iqm_interval([np.full(5, 0.5)]) == Interval(0.5, 0.5, 0.5)


def test_interval_of_a_mean_has_the_known_width(rng):
    values = rng.normal(size=400)
    found = bootstrap(lambda x, axis: np.mean(x, axis=axis), [values])
    assert found.low is not None and found.high is not None
    error = values.std() / np.sqrt(400)
    np.testing.assert_allclose(found.high - found.low, 2 * 1.96 * error, rtol=0.1)


def test_the_same_seeds_give_the_same_interval(rng):
    values = [rng.normal(size=5), rng.normal(size=5)]
    assert iqm_interval(values) == iqm_interval(values)


@pytest.mark.parametrize(("threshold", "share"), [(0.5, 0.0), (2.0, 0.5), (9.0, 1.0)])
def test_profile_counts_runs(threshold, share):
    strata = [np.array([1.0, 2.0]), np.array([3.0, 4.0])]
    assert profile(strata, threshold, below=True).estimate == share
    turned = [-values for values in strata]
    assert profile(turned, -threshold, below=False).estimate == share
