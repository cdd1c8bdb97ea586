"""Random shooting by hand, and what the others are worth beside it."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from loopwm.actions import ActionLayout
from loopwm.core import RESULTS
from loopwm.planning import (
    CategoricalCEMConfig,
    GradientConfig,
    GumbelMuZeroConfig,
    ICEMConfig,
    MPPIConfig,
    RandomShootingConfig,
)

CONFIG = RandomShootingConfig(horizon=2, population=64, elites=4)


def test_takes_the_first_action_of_the_best(toys, plans):
    # One step: the return of the action is the best return.
    planner, z = dataclasses.replace(CONFIG, horizon=1).build(ActionLayout.box(1)), jnp.full(1, 0.5)
    found = plans(planner, toys["regulator"](), z)
    assert np.all(found.result == RESULTS.successful)
    np.testing.assert_allclose(-((found.value[:, 0] + 0.5) ** 2), found.stats.best, atol=1e-6)
    # 64 uniform actions come as close as 1/64 of half the box, on average.
    assert 0.004 < np.mean(np.abs(found.value + 0.5)) < 0.06
    assert found.stats.returns.mean.shape == (32, 1) and found.warm_start == ()
    exploring = plans(planner, toys["regulator"](), z, explore=True)
    assert np.std(exploring.value) > np.std(found.value)
    lost = plans(planner, toys["regulator"](), jnp.full(1, jnp.nan))
    assert np.all(lost.result == RESULTS.nonfinite)


def test_draws_every_group_uniformly(toys, plans):
    planner = dataclasses.replace(CONFIG, population=4, elites=1).build(
        ActionLayout.categorical(2, 3)
    )
    model = toys["bandit"](jnp.zeros(5), jnp.zeros(5), action_size=5)
    values = np.asarray(plans(planner, model, jnp.zeros(1), count=3000).value)
    np.testing.assert_allclose(values.mean(axis=0), [1 / 2, 1 / 2, 1 / 3, 1 / 3, 1 / 3], atol=0.03)
    assert np.all(values[:, :2].sum(axis=1) == 1) and np.all(values[:, 2:].sum(axis=1) == 1)


def test_has_the_terminal_value(toys, plans):
    found = plans(
        CONFIG.build(ActionLayout.box(1)), toys["constant"](0.0, 1.0, 3.0), jnp.full(1, 7.0)
    )
    np.testing.assert_allclose(found.stats.best, np.full(32, 0.81 * 27.0), rtol=1e-5)


def test_has_no_proposals(toys, plans):
    # The policy's is by far the best action; drawn ones come as close as they can.
    found = plans(CONFIG.build(ActionLayout.box(1)), toys["regulator"](0.9), jnp.full(1, -0.9))
    assert not np.any(found.value == 0.9)


SIZES = {"horizon": 4, "population": 24, "proposals": 0, "iterations": 4, "elites": 6}
BOX = {
    "mppi": MPPIConfig(**SIZES),
    "icem": ICEMConfig(**SIZES, decay=1.0),
    "gradient": GradientConfig(sampler=MPPIConfig(**{**SIZES, "iterations": 2}), steps=4),
}
TARGET = np.array([[0.5, -0.3]])


@pytest.fixture(scope="module")
def shot(toys, plans):
    """Mean distance of random shooting's action from the optimum, with 96 sequences."""
    planner = RandomShootingConfig(horizon=4, population=96).build(ActionLayout.box(2))
    found = plans(planner, toys["regulator"](action_size=2), TARGET[0], count=64)
    return np.mean(np.abs(found.value + TARGET))


@pytest.mark.parametrize("name", BOX)
def test_searching_a_box_beats_it_at_the_same_budget(name, toys, plans, shot):
    # Eight entries of action. MPPI and iCEM score 96 sequences, gradient 48 and 4 · (4 + 1).
    model = toys["regulator"](action_size=2)
    found = plans(BOX[name].build(ActionLayout.box(2)), model, TARGET[0], count=64)
    assert np.mean(np.abs(found.value + TARGET)) < 0.8 * shot


def test_categorical_cem_beats_it_at_the_same_budget(toys, plans):
    # Eight steps with one right action of three each, 96 sequences.
    config = CategoricalCEMConfig(horizon=8, population=24, proposals=0, iterations=4, elites=6)
    random = RandomShootingConfig(horizon=8, population=96).build(ActionLayout.categorical(3))
    shot, found = (
        plans(p, toys["code"](), jnp.zeros(1))
        for p in (random, config.build(ActionLayout.categorical(3)))
    )
    assert np.mean(found.stats.best) > np.mean(shot.stats.best) + 0.3
    assert np.mean(found.value[:, 2]) > np.mean(shot.value[:, 2])


def test_a_tree_beats_it_at_the_same_budget_where_the_critic_knows_the_way(toys, plans):
    # One of 256 sequences is right; 64 transitions.
    random = RandomShootingConfig(horizon=4, population=16).build(ActionLayout.categorical(4))
    planners = (random, GumbelMuZeroConfig(simulations=64).build(ActionLayout.categorical(4)))
    shot, found = (plans(p, toys["lock"](), jnp.asarray([0.0, 1.0])) for p in planners)
    assert np.all(found.value[:, 0] == 1.0) and np.mean(shot.value[:, 0]) < 0.6
