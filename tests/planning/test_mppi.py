"""MPPI on problems whose best action is known."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from loopwm.actions import ActionLayout
from loopwm.core import RESULTS
from loopwm.planning import MPPIConfig
from loopwm.planning.mppi import MPPIState
from loopwm.planning.planner import PlanStats

CONFIG = MPPIConfig(horizon=3, population=48, proposals=4, iterations=6, elites=8)
NO, YES = jnp.asarray(False), jnp.asarray(True)


@eqx.filter_jit
def _plan(model, planner, z, warm_start, explore, key):
    return planner(model, z, warm_start, explore, key=key)


def _decide(toys, z, config=CONFIG, explore=NO, key=None, policy=0.0):
    planner = config.build(ActionLayout.box(1))
    key = jax.random.key(1) if key is None else key
    model = toys["regulator"](jnp.asarray(policy))
    return _plan(model, planner, jnp.asarray([z]), planner.cold_start(), explore, key)


@pytest.mark.parametrize("z", [0.0, 0.5, -0.8])
def test_finds_the_optimum_of_a_linear_quadratic_problem(z, toys):
    plan = _decide(toys, z)
    assert float(plan.value[0]) == pytest.approx(-z, abs=0.1)
    assert plan.result == RESULTS.successful
    assert -0.05 <= float(plan.stats.best) <= 0.0
    assert float(plan.stats.mean) < float(plan.stats.best)
    assert float(plan.stats.loops) == 1.0


@pytest.mark.parametrize("z", [3.0, -3.0])
def test_actions_stay_in_the_box_where_the_optimum_is_outside(z, toys):
    for explore in (NO, YES):
        plan = _decide(toys, z, explore=explore)
        assert -1.0 <= float(plan.value[0]) <= 1.0
        if not explore:
            assert float(plan.value[0]) * np.sign(-z) > 0.9


def test_iterations_narrow_the_search(toys):
    # One iteration has only the start's wide scale to choose from.
    def errors(config):
        planner, model = config.build(ActionLayout.box(1)), toys["regulator"](jnp.asarray(0.0))
        plan = eqx.filter_jit(
            jax.vmap(lambda k: planner(model, jnp.full(1, 0.5), planner.cold_start(), NO, key=k))
        )(jax.random.split(jax.random.key(0), 16))
        return np.abs(np.asarray(plan.value) + 0.5)

    wide, narrow = errors(dataclasses.replace(CONFIG, iterations=1)), errors(CONFIG)
    assert narrow.mean() < 0.6 * wide.mean()


def test_policy_and_warm_start_are_where_the_search_begins(toys):
    # With a scale that cannot go anywhere, the plan is one of the two.
    config = dataclasses.replace(CONFIG, scale_min=0.001, scale_max=0.001, iterations=1, elites=4)
    planner = config.build(ActionLayout.box(1))

    def first(policy, warm):
        model = toys["regulator"](jnp.asarray(policy))
        warm = jnp.full((3, 1), warm)
        return float(_plan(model, planner, jnp.ones(1), warm, NO, jax.random.key(0)).value[0])

    assert first(policy=0.9, warm=-0.4) == pytest.approx(-0.4, abs=0.01)
    assert first(policy=-0.4, warm=0.9) == pytest.approx(-0.4, abs=0.01)


def test_works_without_proposals(toys):
    plan = _decide(toys, 0.5, dataclasses.replace(CONFIG, proposals=0))
    assert float(plan.value[0]) == pytest.approx(-0.5, abs=0.1)


def test_exploration_varies_around_the_plan(toys):
    def first_actions(explore):
        keys = jax.random.split(jax.random.key(5), 12)
        return np.array([float(_decide(toys, 0.5, explore=explore, key=k).value[0]) for k in keys])

    exploring, greedy = first_actions(YES), first_actions(NO)
    assert exploring.std() > 2 * greedy.std()
    assert exploring.std() > 0.03 and abs(exploring.mean() + 0.5) < 0.2
    # The same key gives the same decision.
    assert float(_decide(toys, 0.5, explore=YES).value[0]) == float(
        _decide(toys, 0.5, explore=YES).value[0]
    )


def test_warm_start_is_the_mean_shifted_by_one_step():
    planner = CONFIG.build(ActionLayout.box(1))
    mean = jnp.asarray([[0.1], [0.2], [0.3]])
    state = MPPIState(
        mean=mean,
        scale=jnp.full((3, 1), 0.5),
        elites=jnp.full((8, 3, 1), 0.7),
        weights=jnp.full(8, 1 / 8),
        stats=PlanStats(jnp.zeros(()), jnp.zeros(()), jnp.zeros(())),
    )
    postprocess = eqx.filter_jit(planner.postprocess)
    plan = postprocess(state, NO, key=jax.random.key(0))
    np.testing.assert_allclose(plan.value, [0.1])
    np.testing.assert_allclose(plan.warm_start, [[0.2], [0.3], [0.0]])
    exploring = postprocess(state, YES, key=jax.random.key(0)).value
    assert float(exploring[0]) != pytest.approx(0.1, abs=1e-3)
    np.testing.assert_array_equal(planner.init(plan.warm_start).mean, plan.warm_start)
    assert planner.cold_start().shape == (3, 1) and not np.any(planner.cold_start())


def test_an_average_of_actions_at_the_edge_stays_in_the_box(toys):
    # Float32 weights sum to 1 + 1e-7 as often as not, and environments check their bounds.
    config = dataclasses.replace(CONFIG, proposals=0, scale_min=1e-6, scale_max=1e-6, iterations=1)
    planner = config.build(ActionLayout.box(1))
    model, state = toys["regulator"](), planner.init(-jnp.ones((3, 1)))
    step = jax.jit(jax.vmap(lambda z, k: planner.iterate(model, z, state, key=k)[0].mean))
    states = jnp.linspace(3.0, 9.0, 200)[:, None]
    means = np.asarray(step(states, jax.random.split(jax.random.key(0), 200)))
    assert -1.0 <= means.min() and means.max() < -0.999


def test_a_batch_of_states_equals_each_alone(toys):
    planner = CONFIG.build(ActionLayout.box(1))
    states = jnp.asarray([[0.5], [-0.2], [2.0]])
    keys = jax.random.split(jax.random.key(3), 3)
    warm = jnp.stack([planner.cold_start(), planner.cold_start() + 0.1, planner.cold_start()])
    explore = jnp.asarray([False, True, False])
    model = toys["regulator"](jnp.asarray(0.0))
    batched = eqx.filter_jit(jax.vmap(lambda z, w, e, k: planner(model, z, w, e, key=k)))(
        states, warm, explore, keys
    )
    for i in range(3):
        alone = _plan(model, planner, states[i], warm[i], explore[i], keys[i])
        np.testing.assert_allclose(batched.value[i], alone.value, atol=1e-5)
        np.testing.assert_allclose(batched.warm_start[i], alone.warm_start, atol=1e-5)


def test_nan_in_the_model_is_reported(toys):
    assert _decide(toys, np.nan).result == RESULTS.nonfinite
