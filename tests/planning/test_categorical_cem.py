"""Categorical CEM on games small enough to enumerate."""

import dataclasses
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from loopwm.actions import ActionLayout
from loopwm.core import RESULTS
from loopwm.errors import UsageError
from loopwm.planning import AbstractPlanningModel, CategoricalCEMConfig, Imagined, score
from loopwm.planning.categorical_cem import CEMState
from loopwm.planning.planner import PlanStats

CONFIG = CategoricalCEMConfig(horizon=4, population=48, proposals=4, iterations=4, elites=8)
NO, YES = jnp.asarray(False), jnp.asarray(True)


@eqx.filter_jit
def _plan(model, planner, z, warm_start, explore, key):
    return planner(model, z, warm_start, explore, key=key)


def _decide(model, z, actions, config=CONFIG, explore=NO, seed=1):
    planner = config.build(ActionLayout.categorical(actions))
    return _plan(model, planner, z, planner.cold_start(), explore, jax.random.key(seed))


def test_finds_the_best_of_all_sequences(toys):
    model, start = toys["tempting"](), jnp.zeros(2)
    sequences = np.array(list(itertools.product(range(3), repeat=CONFIG.horizon)))
    values = np.asarray(
        jax.jit(jax.vmap(lambda u: score(model, start, jax.nn.one_hot(u, 3)).value))(sequences)
    )
    best = sequences[values.argmax()]
    assert list(best) == [1, 2, 1, 2] and np.sum(values > values.max() - 0.1) == 1
    planner = dataclasses.replace(CONFIG, population=128, iterations=6).build(
        ActionLayout.categorical(3)
    )
    plans = eqx.filter_jit(
        jax.vmap(lambda k: planner(model, start, planner.cold_start(), NO, key=k))
    )(jax.random.split(jax.random.key(0), 20))
    assert np.all(plans.result == RESULTS.successful)
    # Random search by factorised frequencies may end in the second best; it seldom does.
    right = np.asarray(plans.value)[:, best[0]] == 1.0
    assert right.sum() >= 17
    np.testing.assert_allclose(np.asarray(plans.stats.best)[right], values.max(), rtol=1e-6)
    # The rest of the plan is there too, for the next decision.
    rest = np.argmax(np.asarray(plans.warm_start)[right][:, :-1], axis=2)
    np.testing.assert_array_equal(rest, np.tile(best[1:], (right.sum(), 1)))


def test_the_end_of_the_task_stops_reward(toys):
    plan = _decide(toys["cliff"](jnp.asarray(1.0)), jnp.zeros(1), 2)
    np.testing.assert_array_equal(plan.value, [0.0, 1.0])
    # 0.4 for three steps, then 1 for ending on the last.
    assert float(plan.stats.best) == pytest.approx(3 * 0.4 + 1.0)
    # Teeth: without the end the other action is better.
    endless = _decide(toys["cliff"](jnp.asarray(0.0)), jnp.zeros(1), 2)
    np.testing.assert_array_equal(endless.value, [1.0, 0.0])


def test_warm_start_is_the_probabilities_shifted_by_one_step():
    planner = CONFIG.build(ActionLayout.categorical(2))
    probabilities = jnp.asarray([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    stats = PlanStats(jnp.zeros(()), jnp.zeros(()), jnp.zeros(()))
    state = CEMState(probabilities, stats)
    plan = eqx.filter_jit(planner.postprocess)(state, NO, key=jax.random.key(0))
    np.testing.assert_array_equal(plan.value, [0.0, 1.0])
    np.testing.assert_allclose(plan.warm_start[:3], probabilities[1:])
    np.testing.assert_allclose(plan.warm_start[3], [0.5, 0.5])
    started = planner.init(plan.warm_start).probabilities
    np.testing.assert_allclose(jnp.sum(started, axis=1), 1.0, rtol=1e-6)
    assert float(started[0, 0]) > 0.5 > float(started[1, 0])


def test_exploration_draws_from_the_first_probabilities():
    planner = dataclasses.replace(CONFIG, floor=0.0).build(ActionLayout.categorical(2))
    stats = PlanStats(jnp.zeros(()), jnp.zeros(()), jnp.zeros(()))
    state = CEMState(jnp.full((4, 2), jnp.asarray([0.3, 0.7])), stats)
    keys = jax.random.split(jax.random.key(0), 2000)
    draw = jax.jit(jax.vmap(lambda k, e: planner.postprocess(state, e, key=k).value))
    exploring = np.asarray(draw(keys, jnp.ones(2000, bool)))
    assert np.all(exploring.sum(1) == 1.0)
    assert exploring[:, 1].mean() == pytest.approx(0.7, abs=0.035)
    np.testing.assert_array_equal(draw(keys, jnp.zeros(2000, bool)), np.tile([0.0, 1.0], (2000, 1)))


def test_the_floor_keeps_every_action_possible_when_exploring():
    planner = dataclasses.replace(CONFIG, floor=0.2).build(ActionLayout.categorical(2))
    stats = PlanStats(jnp.zeros(()), jnp.zeros(()), jnp.zeros(()))
    state = CEMState(jnp.full((4, 2), jnp.asarray([0.0, 1.0])), stats)
    keys = jax.random.split(jax.random.key(0), 2000)
    draw = jax.jit(jax.vmap(lambda k: planner.postprocess(state, YES, key=k).value))
    assert np.asarray(draw(keys))[:, 0].mean() == pytest.approx(0.1, abs=0.03)


def test_a_batch_of_states_equals_each_alone(toys):
    planner, model = CONFIG.build(ActionLayout.categorical(3)), toys["tempting"]()
    states = jnp.asarray([[0.0, 0.0], [1.0, 0.0], [2.0, 5.0]])
    keys = jax.random.split(jax.random.key(3), 3)
    warm = jnp.stack([planner.cold_start()] * 3)
    batched = eqx.filter_jit(jax.vmap(lambda z, w, k: planner(model, z, w, NO, key=k)))(
        states, warm, keys
    )
    for i in range(3):
        alone = _plan(model, planner, states[i], warm[i], NO, keys[i])
        np.testing.assert_array_equal(batched.value[i], alone.value)
        np.testing.assert_allclose(batched.warm_start[i], alone.warm_start, atol=1e-5)
    np.testing.assert_array_equal(batched.value[1], [0.0, 0.0, 1.0])  # 2 pays at once after 1


def test_works_without_proposals_and_reports_nan(toys):
    alone = dataclasses.replace(CONFIG, proposals=0)
    for ends, action, result in (
        (1.0, [0.0, 1.0], RESULTS.successful),
        (jnp.nan, None, RESULTS.nonfinite),
    ):
        plan = _decide(toys["cliff"](jnp.asarray(ends)), jnp.zeros(1), 2, alone)
        assert plan.result == result
        if action is not None:
            np.testing.assert_array_equal(plan.value, action)


class Locks(AbstractPlanningModel):
    """Two dials of 2 and 3 that have to show (1, 2) together; each alone pays less than nothing."""

    discount: float = eqx.field(static=True, default=1.0)
    action_size: int = eqx.field(static=True, default=5)

    def step(self, z, u):
        reward = 3.0 * u[1] * u[4] - u[1] - u[4]
        return Imagined(z, reward, jnp.ones(()), jnp.ones(()))

    def value(self, z):
        return jnp.zeros(())

    def propose(self, z, *, key):
        return jnp.asarray([1.0, 0.0, 1.0, 0.0, 0.0])

    def at_depth(self, depth):
        return self


def test_groups_are_planned_together_and_refitted_each_by_itself():
    config = dataclasses.replace(CONFIG, horizon=2, population=64, iterations=6)
    planner = config.build(ActionLayout.categorical(2, 3))
    np.testing.assert_allclose(planner.cold_start(), [[0.5, 0.5, 1 / 3, 1 / 3, 1 / 3]] * 2)
    plan = _plan(Locks(), planner, jnp.zeros(1), planner.cold_start(), NO, jax.random.key(0))
    np.testing.assert_array_equal(plan.value, [0.0, 1.0, 0.0, 0.0, 1.0])
    assert float(plan.stats.best) == pytest.approx(2.0)
    for group in (plan.warm_start[:, :2], plan.warm_start[:, 2:]):
        np.testing.assert_allclose(jnp.sum(group, axis=1), 1.0, rtol=1e-5)


def test_exploration_draws_each_group_from_its_own_probabilities():
    planner = dataclasses.replace(CONFIG, floor=0.3).build(ActionLayout.categorical(2, 3))
    stats = PlanStats(jnp.zeros(()), jnp.zeros(()), jnp.zeros(()))
    first = jnp.asarray([0.2, 0.8, 1.0, 0.0, 0.0])
    state = CEMState(jnp.tile(first, (4, 1)), stats)
    keys = jax.random.split(jax.random.key(0), 4000)
    draw = jax.jit(jax.vmap(lambda k: planner.postprocess(state, YES, key=k).value))
    drawn = np.asarray(draw(keys))
    # 0.7 of each probability, and 0.3 spread over the 2 or the 3 categories.
    np.testing.assert_allclose(drawn.mean(0), [0.29, 0.71, 0.8, 0.1, 0.1], atol=0.03)
    np.testing.assert_array_equal(drawn.sum(1), 2.0)


def test_box_actions_are_refused(assert_helpful):
    with pytest.raises(UsageError, match="Box") as raised:
        CONFIG.build(ActionLayout.box(2))
    assert_helpful(raised)
