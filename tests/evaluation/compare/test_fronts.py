"""Parameter ratios on fronts whose answer is known."""

import numpy as np
import pytest

from loopwm.evaluation.compare.fronts import Point, iso_ratio, log_ratio, reach

SIZES = (1_000.0, 4_000.0, 16_000.0)


def by_seed(values):
    """Values of the seeds 0, 1, …"""
    return dict(enumerate(map(float, values)))


def law(scale, *, sizes=SIZES, seeds=5, spread=0.0, rng=None, common=0.0):
    """Points of error (N / scale)^−1/2: at equal error, scale times the parameters of scale 1.

    `common` is what the seeds have in common in all points, in logarithms.
    """
    noise = np.zeros(seeds) if rng is None else rng.normal(size=(len(sizes), seeds))
    noise = np.broadcast_to(spread * noise + common, (len(sizes), seeds))
    return [
        Point(size, by_seed((size / scale) ** -0.5 * np.exp(row)))
        for size, row in zip(sizes, noise, strict=True)
    ]


@pytest.mark.parametrize("scale", [0.25, 0.5, 1.0, 3.0, 4.0, 10.0])
def test_scaled_fronts_have_their_scale_as_ratio(scale):
    ratio = iso_ratio([(law(1.0), law(scale))], logarithmic=True)
    assert ratio is not None and ratio.bound == "exact"
    np.testing.assert_allclose([ratio.low, ratio.estimate, ratio.high], scale, rtol=1e-9)


def test_interval_covers_the_scale_and_narrows_over_tasks(rng):
    one = iso_ratio(
        [(law(1.0, spread=0.05, rng=rng), law(3.0, spread=0.05, rng=rng))], logarithmic=True
    )
    many = iso_ratio(
        [(law(1.0, spread=0.05, rng=rng), law(3.0, spread=0.05, rng=rng)) for _ in range(6)],
        logarithmic=True,
    )
    for ratio in (one, many):
        assert ratio is not None and ratio.low is not None and ratio.high is not None
        assert ratio.low < 3.0 < ratio.high
    assert many.high / many.low < one.high / one.low


def test_what_seeds_have_in_common_does_not_widen_the_interval(rng):
    # Data that are harder for one seed than for another, and models that agree on them.
    common = np.log([1.0, 1.2, 1.5, 0.9, 1.1])
    ours, theirs = (law(s, spread=0.01, rng=rng, common=common) for s in (1.0, 3.0))
    paired = iso_ratio([(ours, theirs)], logarithmic=True)
    assert paired is not None and paired.low is not None and paired.high is not None
    assert paired.high / paired.low < 1.15
    # The same errors as if every family had seeds of its own.
    turned = [Point(p.params, {(s + 1) % 5: v for s, v in p.values.items()}) for p in theirs]
    alone = iso_ratio([(ours, turned)], logarithmic=True)
    assert alone is not None and alone.low is not None and alone.high is not None
    assert alone.high / alone.low > 2.0
    np.testing.assert_allclose(alone.estimate, paired.estimate)


def test_only_seeds_that_all_have_count():
    theirs = law(4.0)
    # A seed that one size lacks, and one that nobody else has.
    holed = {0: 1e3} | {s: v for s, v in theirs[0].values.items() if s > 0} | {7: 1e3}
    ours = [Point(p.params, {s: v for s, v in p.values.items() if s > 0}) for p in law(1.0)]
    ratio = iso_ratio([(ours, [Point(SIZES[0], holed), *theirs[1:]])], logarithmic=True)
    assert ratio is not None
    np.testing.assert_allclose([ratio.low, ratio.estimate, ratio.high], 4.0)
    none = [Point(p.params, {9: 1.0}) for p in theirs]
    assert iso_ratio([(ours, none)], logarithmic=True) is None


def test_not_reached_is_a_bound():
    # All that the other family reaches is worse than our smallest model.
    ratio = iso_ratio([(law(1.0), law(400.0))], logarithmic=True)
    assert ratio is not None and (ratio.bound, ratio.high) == ("at least", None)
    np.testing.assert_allclose([ratio.low, ratio.estimate], 16.0)
    turned = iso_ratio([(law(400.0), law(1.0))], logarithmic=True)
    assert turned is not None and (turned.bound, turned.low) == ("at most", None)
    np.testing.assert_allclose([turned.high, turned.estimate], 1 / 16)
    both = iso_ratio([(law(1.0), law(400.0)), (law(400.0), law(1.0))], logarithmic=True)
    assert both is not None and (both.bound, both.estimate) == ("open", None)
    assert both.low is None and both.high is None


def test_geometric_mean_over_tasks():
    ratio = iso_ratio([(law(1.0), law(2.0)), (law(1.0), law(8.0))], logarithmic=True)
    assert ratio is not None
    np.testing.assert_allclose(ratio.estimate, 4.0)


def test_larger_models_that_are_worse_are_not_on_the_front():
    worse = [*law(2.0), Point(64_000.0, by_seed(np.full(5, 9.0)))]
    ratio = iso_ratio([(law(1.0), worse)], logarithmic=True)
    assert ratio is not None
    np.testing.assert_allclose(ratio.estimate, 2.0)


def test_returns_are_interpolated_as_they_are():
    reached = zip(SIZES, (0.0, 50.0, 100.0), strict=True)
    ours = [Point(size, by_seed(-np.full(5, r))) for size, r in reached]
    theirs = [Point(4 * p.params, p.values) for p in ours]
    ratio = iso_ratio([(ours, theirs)], logarithmic=False)
    assert ratio is not None
    np.testing.assert_allclose(ratio.estimate, 4.0)
    # Within 5 % of 100 is 95, which 16,000 · 4^−0.1 parameters reach.
    late = [*ours[:2], Point(16_000.0, by_seed(-np.full(5, 95.0)))]
    ratio = iso_ratio([(ours, late)], logarithmic=False, tolerance=0.05)
    assert ratio is not None and ratio.estimate is not None
    assert ratio.estimate > 1.0


def test_a_task_is_solved_at_an_error_that_both_come_below():
    # Errors 1, 1/2, 1/4 at 1,000, 4,000, 16,000 parameters; theirs at four times as many.
    ratio = iso_ratio([(law(1e3), law(4e3))], logarithmic=True, solved=1.5)
    assert ratio is not None and (ratio.bound, ratio.high) == ("at least", None)
    # Theirs comes to 1.5 between its first and second size, ours has less at its first.
    np.testing.assert_allclose(ratio.estimate, 4e3 / 1.5**2 / 1e3)
    # An error that one of them does not reach is as if none was given.
    beyond = iso_ratio([(law(1e3), law(4e3))], logarithmic=True, solved=0.1)
    assert beyond is not None and beyond == iso_ratio([(law(1e3), law(4e3))], logarithmic=True)


def test_an_open_end_stays_open_among_many_tasks():
    known, bounded = (law(1.0), law(2.0)), (law(1.0), law(400.0))
    ratio = iso_ratio([bounded] + [known] * 40, logarithmic=True)
    assert ratio is not None and ratio.tasks == 41
    assert (ratio.bound, ratio.high) == ("at least", None)
    assert ratio.low is not None and ratio.low > 2.0


def test_one_seed_has_no_interval_and_one_size_no_ratio():
    ratio = iso_ratio([(law(1.0, seeds=1), law(2.0, seeds=1))], logarithmic=True)
    assert ratio is not None and not ratio.interval and ratio.low is None
    np.testing.assert_allclose(ratio.estimate, 2.0)
    assert iso_ratio([(law(1.0, sizes=(1_000.0,)), law(2.0))], logarithmic=True) is None


def test_reach_interpolates_and_says_when_the_smallest_is_enough():
    targets = np.array([3.0, 1.0, 4.0, 5.0])
    front = np.repeat([[4.0], [2.0], [1.0]], 4, axis=1)
    found, smaller = reach(np.array([0.0, 1.0, 2.0]), front, targets)
    np.testing.assert_array_equal(found, [0.5, 2.0, 0.0, 0.0])
    np.testing.assert_array_equal(smaller, [False, False, False, True])


def test_equal_flat_fronts_need_the_same():
    flat = (np.array([0.0, 1.0]), np.full((2, 1), 2.0))
    np.testing.assert_array_equal(log_ratio(flat, flat, logarithmic=True), [[0.0], [0.0]])
