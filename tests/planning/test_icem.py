"""iCEM: what it keeps, what it draws, what it executes."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from loopwm.actions import ActionLayout
from loopwm.core import RESULTS
from loopwm.planning import CoarseConfig, ICEMConfig, Rescoring, Scoring
from loopwm.planning.icem import ICEMStart, ICEMState
from loopwm.planning.planner import PlanStats

CONFIG = ICEMConfig(horizon=3, population=32, proposals=4, iterations=3, elites=8, beta=1.0)


def test_populations_decay_down_to_twice_the_elites(toys):
    config = dataclasses.replace(CONFIG, population=64, decay=1.6, iterations=4)
    assert config.populations == (64, 40, 25, 16)
    assert dataclasses.replace(config, decay=1.0).populations == (64,) * 4
    # Fewer than that from the start: as many throughout.
    assert dataclasses.replace(config, population=12).populations == (12,) * 4
    planner = config.build(ActionLayout.box(1))
    assert [stage.population for stage in planner.stages()] == [64, 40, 25, 16]
    assert planner.sequences(toys["waves"]()) == 145


def test_a_search_never_forgets_its_best_sequence(toys, plans):
    # Kept elites are scored again, so the best return of an iteration never falls.
    config = dataclasses.replace(CONFIG, horizon=2)
    best = np.asarray(
        plans(config.build(ActionLayout.box(2)), toys["waves"](), jnp.zeros(2)).stats.returns.best
    )
    assert best.shape == (32, 3) and np.all(np.diff(best, axis=1) >= -1e-6)
    forgetful = dataclasses.replace(config, kept=0.0).build(ActionLayout.box(2))
    best = np.asarray(plans(forgetful, toys["waves"](), jnp.zeros(2)).stats.returns.best)
    assert np.any(np.diff(best, axis=1) < -1e-3)


def test_executes_the_best_sequence_of_all_iterations(toys, plans):
    # One step ahead: the return of the action taken is the best that was seen.
    planner = dataclasses.replace(CONFIG, horizon=1, kept=0.0, momentum=0.9).build(
        ActionLayout.box(1)
    )
    found = plans(planner, toys["regulator"](), jnp.full(1, 0.5))
    best = np.asarray(found.stats.returns.best)
    np.testing.assert_allclose(-((0.5 + found.value[:, 0]) ** 2), best.max(axis=1), atol=1e-6)
    assert np.any(best.argmax(axis=1) < 2)  # not always the last iteration's


def test_the_start_is_the_last_decision_shifted_by_a_step():
    planner = dataclasses.replace(CONFIG, kept=0.25).build(ActionLayout.box(1))
    count = jnp.arange(3.0)[None, :, None] / 10.0
    state = ICEMState(
        mean=count[0],
        scale=jnp.full((3, 1), 0.2),
        start=planner.cold_start(),
        elites=count + 0.1 * jnp.arange(8.0)[:, None, None],
        values=-jnp.arange(8.0),
        best=-count[0] - 0.3,
        best_value=jnp.asarray(0.0),
        stats=PlanStats(jnp.zeros(()), jnp.zeros(()), jnp.zeros(())),
    )
    post = eqx.filter_jit(jax.vmap(lambda k, e: planner.postprocess(state, e, key=k)))
    keys = jax.random.split(jax.random.key(0), 400)
    plan = post(keys, jnp.zeros(400, bool))
    np.testing.assert_allclose(plan.value, np.full((400, 1), -0.3))
    np.testing.assert_allclose(plan.warm_start.mean[0, :, 0], [0.1, 0.2, 0.2], atol=1e-6)
    kept = np.asarray(plan.warm_start.kept)[..., 0]
    assert kept.shape == (400, 2, 3) and np.all(plan.warm_start.known)
    np.testing.assert_allclose(kept[:, 0, :2], np.tile([0.1, 0.2], (400, 1)), atol=1e-6)
    np.testing.assert_allclose(kept[:, 1, :2], np.tile([0.2, 0.3], (400, 1)), atol=1e-6)
    assert kept[..., 2].mean() == pytest.approx(0.2, abs=0.03)
    assert kept[..., 2].std() == pytest.approx(0.2, abs=0.03)
    # Exploring, an elite's first action with noise.
    exploring = np.asarray(post(keys, jnp.ones(400, bool)).value)
    assert exploring.mean() == pytest.approx(0.35, abs=0.05)
    assert exploring.std() == pytest.approx(np.hypot(0.2, np.std(np.arange(8) / 10)), abs=0.05)


def test_elites_of_the_last_decision_are_candidates_of_this_one(toys, plans):
    # A search that cannot move: only what was kept, if it was, reaches the optimum.
    stiff = dataclasses.replace(
        CONFIG, proposals=0, iterations=1, scale=1e-3, scale_min=1e-3, momentum=0.0
    )
    planner, model, z = stiff.build(ActionLayout.box(1)), toys["regulator"](), jnp.full(1, 0.4)
    warm = ICEMStart(jnp.full((3, 1), 0.9), jnp.full((3, 3, 1), -0.4), jnp.asarray(True))
    found = plans(planner, model, z, warm_start=warm)
    np.testing.assert_allclose(found.value, np.full((32, 1), -0.4))
    assert found.stats.returns.best.shape == (32, 1)
    unknown = dataclasses.replace(warm, known=jnp.asarray(False))
    without = plans(planner, model, z, warm_start=unknown).value
    np.testing.assert_allclose(without, np.full((32, 1), 0.9), atol=0.01)


def test_the_optimum_in_the_box_and_at_its_edge(toys, plans):
    planner, model = CONFIG.build(ActionLayout.box(1)), toys["regulator"]()
    for z, action in ((0.5, -0.5), (-0.8, 0.8), (3.0, -1.0)):
        found = plans(planner, model, jnp.full(1, z))
        assert np.mean(np.abs(found.value - action)) < 0.15
        assert np.all(np.abs(found.value) <= 1.0) and np.all(found.result == RESULTS.successful)
        exploring = plans(planner, model, jnp.full(1, z), explore=True).value
        assert np.all(np.abs(exploring) <= 1.0) and np.std(exploring) > np.std(found.value)
    # NaN in the model is reported.
    assert np.all(plans(planner, model, jnp.full(1, jnp.nan)).result == RESULTS.nonfinite)


def test_coarse_returns_do_not_outlive_their_iterations(toys, plans):
    # Terminal returns are larger here, all rewards being negative; the last is one of each step.
    coarse = CoarseConfig(depth=1, rescoring=Rescoring.LAST, scoring=Scoring.TERMINAL)
    planner = dataclasses.replace(CONFIG, coarse=coarse, scale=1.0).build(ActionLayout.box(1))
    found = plans(planner, toys["regulator"](), jnp.full(1, 3.0))
    best = np.asarray(found.stats.returns.best)
    # At best z goes 2, 1, 0, which ends with 0 but costs 5.
    assert np.all(best[:, -1] <= -5.0 + 1e-5) and np.any(best[:, :-1] > -1.0)
    np.testing.assert_array_equal(best[:, -1], found.stats.best)
    assert np.all(found.result == RESULTS.successful)
