"""Interquartile means and bootstrap intervals against numbers worked out by hand."""

import numpy as np
import pytest

from loopwm.evaluation.compare.statistics import (
    Interval,
    aligned,
    bootstrap,
    iqm,
    iqm_interval,
    paired_bootstrap,
    profile,
)


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
    assert profile(strata, threshold).estimate == share


def test_seeds_are_aligned_by_number_and_not_by_order():
    found = aligned([{3: 1.0, 1: 2.0, 8: 9.0}, {1: 4.0, 2: 9.0, 3: 5.0}])
    np.testing.assert_array_equal(found, [[2.0, 1.0], [4.0, 5.0]])
    assert aligned([{0: 1.0}, {1: 1.0}]).shape == (2, 0)


def test_paired_seeds_are_drawn_together(rng):
    first = rng.normal(size=(2, 5)) + 10 * rng.normal(size=5)
    second = rng.normal(size=(1, 3))
    seen = []

    def statistic(a, b):
        seen.append((a, b))
        return np.mean(a[1] - a[0], axis=-1) + 0 * np.mean(b[0], axis=-1)

    found = paired_bootstrap(statistic, [first, second])
    differences = first[1] - first[0]
    assert found.estimate == pytest.approx(differences.mean())
    drawn, other = seen[-1]
    assert drawn.shape == (2, 2_000, 5) and other.shape == (1, 2_000, 3)
    assert set(np.unique(drawn[1] - drawn[0])) <= set(differences)
    assert set(np.unique(other)) == set(second[0])
    assert found.low is not None and found.high is not None
    assert differences.min() <= found.low < found.high <= differences.max()
    assert paired_bootstrap(lambda a: a[0, ..., 0], [second[:, :1]]).low is None
