"""Elite weights, and what planner settings are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from loopwm.actions import ActionLayout
from loopwm.errors import UsageError
from loopwm.planning import (
    PLANNERS,
    CategoricalCEMConfig,
    GradientConfig,
    GumbelMuZeroConfig,
    ICEMConfig,
    MPPIConfig,
    PlanningConfig,
    RandomShootingConfig,
)
from loopwm.planning.planner import elite_weights

_weights = jax.jit(elite_weights, static_argnums=1)
_scores = hnp.arrays(np.float32, 6, elements=st.integers(-50, 50).map(float))


@given(scores=_scores, temperature=st.sampled_from([0.5, 1.0, 4.0]))
def test_elite_weights_are_a_distribution_in_the_order_of_the_scores(scores, temperature):
    weights = np.asarray(_weights(scores, temperature))
    assert np.all(weights >= 0) and weights.sum() == pytest.approx(1.0, abs=1e-5)
    order = np.argsort(scores)
    assert np.all(np.diff(weights[order]) >= -1e-6)


@given(scores=_scores, factor=st.floats(1e-2, 1e3), shift=st.integers(-100, 100))
def test_elite_weights_ignore_the_units_of_the_scores(scores, factor, shift):
    moved = (np.float32(factor) * (scores + np.float32(shift))).astype(np.float32)
    np.testing.assert_allclose(_weights(scores, 1.0), _weights(moved, 1.0), atol=1e-4)


BOX, ONE = ActionLayout.box(2), ActionLayout.categorical(2)


def test_elite_weights_by_hand():
    scores = np.array([0.0, 1.0, 3.0])
    expected = np.exp(2.0 * scores / scores.std())
    np.testing.assert_allclose(
        _weights(jnp.asarray(scores), 2.0), expected / expected.sum(), rtol=1e-4
    )
    np.testing.assert_allclose(_weights(jnp.ones(4), 1.0), np.full(4, 0.25), rtol=1e-6)


BAD_SIZES = [
    {"population": 8, "elites": 9, "proposals": 0},
    {"population": 8, "elites": 4, "proposals": 8},
    {"proposals": -1},
    {"horizon": 0},
    {"iterations": 0},
    {"elites": 0},
    {"population": 0},
    {"temperature": 0.0},
    {"temperature": float("nan")},
]


@pytest.mark.parametrize("change", BAD_SIZES, ids=str)
@pytest.mark.parametrize("config", [MPPIConfig, CategoricalCEMConfig])
def test_settings_that_cannot_work_are_refused_by_name(config, change, assert_helpful):
    with pytest.raises(UsageError, match=r"planning\.(mppi|categorical_cem)\.") as raised:
        config(**change)
    assert_helpful(raised)


@pytest.mark.parametrize(
    "config, change",
    [
        (MPPIConfig, {"scale_min": 0.0}),
        (MPPIConfig, {"scale_min": 0.5, "scale_max": 0.1}),
        (CategoricalCEMConfig, {"momentum": 1.0}),
        (CategoricalCEMConfig, {"momentum": -0.1}),
        (CategoricalCEMConfig, {"floor": 1.5}),
        (ICEMConfig, {"momentum": 1.0}),
        (ICEMConfig, {"kept": 1.5}),
        (ICEMConfig, {"beta": -1.0}),
        (ICEMConfig, {"decay": 0.9}),
        (ICEMConfig, {"scale_min": 0.0}),
        (ICEMConfig, {"scale": 0.01}),
        (ICEMConfig, {"proposals": 60, "kept": 1.0}),
        (ICEMConfig, {"horizon": 0}),
        (GradientConfig, {"refined": 0}),
        (GradientConfig, {"refined": 13}),
        (GradientConfig, {"steps": 0}),
        (GradientConfig, {"rate": float("nan")}),
        (GumbelMuZeroConfig, {"simulations": 0}),
        (GumbelMuZeroConfig, {"max_depth": 0}),
        (GumbelMuZeroConfig, {"value_scale": 0.0}),
        (GumbelMuZeroConfig, {"visits": -1.0}),
        (RandomShootingConfig, {"population": 8}),
        (RandomShootingConfig, {"temperature": 0.0}),
    ],
    ids=str,
)
def test_shares_and_scales_outside_their_range_are_refused(config, change, assert_helpful):
    with pytest.raises(UsageError, match=next(iter(change))) as raised:
        config(**change)
    assert_helpful(raised)


def test_a_planner_that_is_not_registered_is_refused(assert_helpful):
    with pytest.raises(UsageError, match="'mcts'; give one of mppi") as raised:
        PlanningConfig(planner="mcts")
    assert_helpful(raised)


def test_the_action_space_chooses_the_planner():
    settings = PlanningConfig()
    assert isinstance(settings.choose(BOX), MPPIConfig)
    assert isinstance(settings.choose(ONE), CategoricalCEMConfig)
    assert settings.choose(BOX, name="mppi") is settings.mppi
    assert settings.choose(ONE, name="random_shooting") is settings.random_shooting
    assert settings.choose(BOX, name="random_shooting") is settings.random_shooting
    chosen = PlanningConfig(planner="icem", settings={"icem": ICEMConfig(beta=1.0)})
    assert chosen.choose(BOX) == ICEMConfig(beta=1.0)
    assert chosen.choose(BOX, name="mppi") == MPPIConfig()
    assert set(settings.settings) == set(PLANNERS)


@pytest.mark.parametrize(
    "actions, name, fitting",
    [
        (ONE, "mppi", "categorical_cem"),
        (BOX, "categorical_cem", "mppi"),
        (BOX, "mpi", "mppi"),
        (ONE, "icem", "gumbel_muzero"),
        (ONE, "gradient", "random_shooting"),
        (BOX, "gumbel_muzero", "mppi, icem, gradient or random_shooting"),
    ],
)
def test_a_planner_that_does_not_fit_is_refused(actions, name, fitting, assert_helpful):
    with pytest.raises(UsageError, match=rf"'{name}'.*{fitting}") as raised:
        PlanningConfig().choose(actions, name=name)
    assert_helpful(raised)
