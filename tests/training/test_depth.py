"""The law of the training depth: values, draws, and what learning does to the mean."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from loopwm import settings
from loopwm.errors import UsageError
from loopwm.training import DepthLaw, LearnerConfig, TrainingDepth
from loopwm.training.depth import (
    LearnedDepth,
    draw_counts,
    init_learned,
    log_mean_gradient,
    mean_depth,
    move_mean,
)

LEARNED = TrainingDepth(DepthLaw.LEARNED, mean=4.0, max_depth=40, loop_cost=0.0, rate=0.02)


def test_the_default_is_the_models_own_depth():
    assert TrainingDepth().reached_for(4) == 4
    assert LearnerConfig().depth == TrainingDepth(DepthLaw.FIXED)
    given = settings.build(LearnerConfig, {"depth": {"law": "poisson", "mean": 6}})
    assert given.depth == TrainingDepth(DepthLaw.POISSON, mean=6.0)
    assert settings.build(LearnerConfig, settings.dump(given)) == given


@pytest.mark.parametrize(
    ("config", "largest"),
    [
        (TrainingDepth(DepthLaw.POISSON), 12),
        (TrainingDepth(DepthLaw.POISSON, mean=7.0), 21),
        (TrainingDepth(DepthLaw.CURRICULUM, start=9.0, mean=2.0), 27),
        (TrainingDepth(DepthLaw.UNIFORM, max_depth=5), 5),
    ],
)
def test_the_largest_depth(config, largest):
    assert config.largest_for(4) == config.reached_for(4) == largest


def test_a_curriculum_moves_the_mean_linearly_and_then_rests():
    config = TrainingDepth(DepthLaw.CURRICULUM, start=2.0, mean=10.0, updates=100)
    values = [float(mean_depth(config, 4, jnp.asarray(n))) for n in (0, 25, 50, 100, 1000)]
    assert values == [2.0, 4.0, 6.0, 10.0, 10.0]
    down = dataclasses.replace(config, start=10.0, mean=None)
    assert float(mean_depth(down, 4, jnp.asarray(50))) == 7.0
    steady = TrainingDepth(DepthLaw.POISSON)
    assert [float(mean_depth(steady, 4, jnp.asarray(n))) for n in (0, 500)] == [4.0, 4.0]


def test_uniform_draws_cover_one_to_the_largest(key):
    config = TrainingDepth(DepthLaw.UNIFORM, max_depth=5)
    drawn = np.asarray(draw_counts(key, config, 4, jnp.asarray(4.0), 4000))
    counted = np.bincount(drawn, minlength=6)
    assert counted[0] == 0 and len(counted) == 6
    assert stats.chisquare(counted[1:]).pvalue > 1e-4


def test_poisson_draws_follow_the_mean(key):
    config = TrainingDepth(DepthLaw.POISSON)
    drawn = np.asarray(draw_counts(key, config, 4, jnp.asarray(6.5), 4000))
    assert drawn.mean() == pytest.approx(6.5, abs=0.15)
    assert drawn.var() == pytest.approx(6.5, abs=0.6)


def test_the_gradient_by_hand():
    # Depths 1, 1 (clamped from 0) and 4; costs 3, 1 and 2 + loops / 2.
    found = log_mean_gradient(
        jnp.asarray([1, 0, 9]), jnp.asarray([3.0, 1.0, 2.0]), jnp.asarray(2.0), 4, 0.5
    )
    cost = np.asarray([3.5, 1.5, 4.0])
    others = np.asarray([2.75, 3.75, 2.5])
    expected = np.mean(np.asarray([-1.0, -2.0, 7.0]) * (cost - others))
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_the_gradient_is_unbiased(key):
    mean, largest, cost = 3.0, 6, 0.1
    outcomes = np.arange(80)
    depth = np.clip(outcomes, 1, largest)
    price = (depth - 4.0) ** 2 + cost * depth

    def expected_price(mu):
        return np.sum(price * stats.poisson.pmf(outcomes, mu))

    slope = mean * (expected_price(mean + 1e-4) - expected_price(mean - 1e-4)) / 2e-4

    @jax.jit
    def estimates(keys):
        def one(k):
            counts = jax.random.poisson(k, mean, (8,))
            losses = (jnp.clip(counts, 1, largest) - 4.0) ** 2
            return log_mean_gradient(counts, losses, jnp.asarray(mean), largest, cost)

        return jax.vmap(one)(keys)

    found = np.asarray(estimates(jax.random.split(key, 20_000)))
    error = found.std() / np.sqrt(len(found))
    assert abs(slope) > 10 * error
    assert found.mean() == pytest.approx(slope, abs=4 * error)


@jax.jit
def _learn(key, start, best, cost):
    """μ after 600 updates where a sequence at depth T costs |T − best| + cost · T."""

    def body(learned, k):
        mean = mean_depth(LEARNED, 4, jnp.asarray(0), learned)
        counts = draw_counts(k, LEARNED, 4, mean, 32)
        depth = jnp.clip(counts, 1, 40)
        losses = jnp.abs(depth - best) + cost * depth
        gradient = log_mean_gradient(counts, losses, mean, 40, 0.0)
        return move_mean(learned, gradient, LEARNED, 4), None

    first = LearnedDepth(jnp.log(start), jnp.zeros(()))
    return jnp.exp(jax.lax.scan(body, first, jax.random.split(key, 600))[0].log_mean)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_learned_mean_moves_towards_the_depth_that_pays(seed):
    key = jax.random.key(seed)
    for start in (2.0, 25.0):
        assert float(_learn(key, start, 10.0, 0.0)) == pytest.approx(10.0, abs=2.0)
    # Loops that cost more than they save are given up, down to the one that is always made.
    assert float(_learn(key, 10.0, 10.0, 2.0)) < 2.0


def test_a_learned_mean_rests_without_a_difference_and_stays_in_range():
    config = dataclasses.replace(LEARNED, rate=0.2)
    learned = init_learned(config, 4)
    assert learned is not None and float(jnp.exp(learned.log_mean)) == pytest.approx(4.0)
    same = move_mean(learned, jnp.zeros(()), config, 4)
    assert float(same.log_mean) == float(learned.log_mean)
    for gradient, end in ((-1e6, 40.0), (1e6, 1.0)):
        moved = learned
        for _ in range(30):
            moved = move_mean(moved, jnp.asarray(gradient), config, 4)
        assert float(jnp.exp(moved.log_mean)) == pytest.approx(end, rel=1e-5)
    assert np.isnan(float(move_mean(learned, jnp.asarray(jnp.nan), LEARNED, 4).log_mean))
    assert init_learned(TrainingDepth(DepthLaw.POISSON), 4) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"mean": 0.0},
        {"mean": float("nan")},
        {"start": -1.0},
        {"max_depth": 0},
        {"updates": 0},
        {"loop_cost": -0.1},
        {"rate": 0.0},
    ],
)
def test_numbers_outside_their_ranges_are_refused(wrong, assert_helpful):
    with pytest.raises(UsageError, match=next(iter(wrong))) as raised:
        TrainingDepth(**wrong)
    assert_helpful(raised)


def test_an_unknown_law_is_refused(assert_helpful):
    with pytest.raises(UsageError, match="learned") as raised:
        settings.build(LearnerConfig, {"depth": {"law": "geometric"}})
    assert_helpful(raised)


@pytest.mark.parametrize(
    "wrong",
    [{"average_rate": 0.0}, {"average_rate": 1.5}, {"gate_weight": -1.0}, {"gate_entropy": -1.0}]
    + [{"batch_size": 1, "depth": LEARNED}],
)
def test_learner_settings_outside_their_ranges_are_refused(wrong, assert_helpful):
    with pytest.raises(UsageError, match=next(iter(wrong))) as raised:
        LearnerConfig(**wrong)
    assert_helpful(raised)
