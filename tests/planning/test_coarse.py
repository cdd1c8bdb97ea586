"""Coarse-to-fine planning: what is scored how deep, and what that decides."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from loopwm.actions import ActionLayout
from loopwm.core import CertifiedHalting, CoreConfig, FixedDepth
from loopwm.errors import UsageError
from loopwm.models import LoopedConfig, Sizes, ValueConfig, build_networks
from loopwm.nn import resolve
from loopwm.planning import (
    AbstractPlanningModel,
    CategoricalCEMConfig,
    CoarseConfig,
    Effort,
    GradientConfig,
    Imagined,
    MPPIConfig,
    NetworksModel,
    PlanningConfig,
    Ranker,
    Rescoring,
    Rollouts,
    Scoring,
    score,
)
from loopwm.training import RunConfig

NO = jnp.asarray(False)
SMALL = {"horizon": 2, "population": 8, "proposals": 2, "iterations": 3, "elites": 2}

BOX = ActionLayout.box(1)
ACTIONS = {True: ActionLayout.categorical(2), False: ActionLayout.box(2)}


class Misleading(AbstractPlanningModel):
    """Actions are best at .32; with fewer than 4 loops the model says .52."""

    loops: int = eqx.field(static=True, default=4)
    discount: float = eqx.field(static=True, default=1.0)
    action_size: int = eqx.field(static=True, default=1)

    def step(self, z, u):
        best = 0.32 if self.loops == 4 else 0.52
        loops = jnp.asarray(float(self.loops))
        return Imagined(z, -jnp.sum(jnp.abs(u - best)), jnp.ones(()), loops)

    def value(self, z):
        return jnp.zeros(())

    def propose(self, z, *, key):
        return jnp.zeros(1)

    def at_depth(self, depth):
        return self if depth == self.loops else dataclasses.replace(self, loops=depth)


def ranked(effort, coarse, **change):
    ranker = Ranker(2, Scoring.EACH_STEP, dataclasses.replace(coarse, **change))
    population = jnp.linspace(0.0, 0.7, 8)[:, None, None]
    return eqx.filter_jit(ranker)(Misleading(), jnp.zeros(1), population, effort)[0]


def which(ranking):
    """Where the elites were among 0, .1 … .7."""
    return np.round(10.0 * np.asarray(ranking.actions[:, 0, 0])).astype(int)


def test_known_sequences_compete_and_are_not_imagined_again():
    ranker = Ranker(2, Scoring.EACH_STEP, CoarseConfig(depth=1, rescored=3))
    drawn, old = jnp.asarray([0.0, 0.1]), jnp.asarray([0.3, 0.6, 0.7])
    known = Rollouts(old[:, None, None], -jnp.abs(old - 0.52), jnp.ones(3))
    run = eqx.filter_jit(
        lambda effort: ranker(Misleading(), jnp.zeros(1), drawn[:, None, None], effort, known=known)
    )
    rough, pool = run(Effort.COARSE)
    np.testing.assert_array_equal(which(rough), [6, 7])
    assert rough.imagined == 2 and float(rough.loops) == 1.0
    np.testing.assert_allclose(pool.actions.ravel(), [0.3, 0.6, 0.7, 0.0, 0.1])
    fine, _ = run(Effort.RESCORED)
    np.testing.assert_array_equal(which(fine), [3, 6])
    assert fine.imagined == 5 and float(fine.loops) == pytest.approx((2 * 1 + 3 * 4) / 5)


def test_the_best_by_coarse_scores_are_ranked_by_full_ones():
    coarse = CoarseConfig(depth=1, rescored=4)
    rough = ranked(Effort.COARSE, coarse)
    np.testing.assert_array_equal(which(rough), [5, 6])
    np.testing.assert_allclose(rough.value, [-0.02, -0.08], atol=1e-6)
    assert float(rough.loops) == 1.0
    full = ranked(Effort.FULL, coarse)
    np.testing.assert_array_equal(which(full), [3, 4])
    assert float(full.loops) == 4.0
    # Coarse scores let .5, .6, .4 and .7 through; of these .4 and .5 are best at full depth.
    fine = ranked(Effort.RESCORED, coarse)
    np.testing.assert_array_equal(which(fine), [4, 5])
    np.testing.assert_allclose(fine.value, [-0.08, -0.18], atol=1e-6)
    assert float(fine.mean) == float(rough.mean) != float(full.mean)
    assert float(fine.loops) == (8 * 1 + 4 * 4) / 12
    # As many as the elites when no number is given: they change places.
    np.testing.assert_array_equal(which(ranked(Effort.RESCORED, coarse, rescored=None)), [5, 6])
    everything = ranked(Effort.RESCORED, coarse, rescored=8)
    np.testing.assert_array_equal(everything.actions, full.actions)


C, R, F = Effort.COARSE, Effort.RESCORED, Effort.FULL
EVERY, LAST, NEVER = Rescoring.EVERY, Rescoring.LAST, Rescoring.NEVER


@pytest.mark.parametrize(
    "coarse, expected",
    [
        (CoarseConfig(), ((F, 5),)),
        (CoarseConfig(depth=4), ((F, 5),)),
        (CoarseConfig(depth=1), ((R, 5),)),
        (CoarseConfig(depth=1, rescoring=LAST), ((C, 4), (R, 1))),
        (CoarseConfig(depth=1, iterations=2), ((R, 2), (F, 3))),
        (CoarseConfig(depth=1, iterations=2, rescoring=LAST), ((C, 1), (R, 1), (F, 3))),
        (CoarseConfig(depth=1, iterations=2, rescoring=NEVER), ((C, 2), (F, 3))),
        (CoarseConfig(depth=1, iterations=9), ((R, 5),)),
        # At full depth the coarse score may still ask for fewer rewards.
        (CoarseConfig(depth=4, scoring=Scoring.TERMINAL), ((R, 5),)),
    ],
    ids=str,
)
def test_which_iterations_get_which_effort(coarse, expected):
    assert Ranker(2, Scoring.EACH_STEP, coarse).phases(Misleading(), 5) == expected


@pytest.fixture(scope="module")
def plans():
    """First action and loops of an MPPI decision on the misleading model."""

    def plan(coarse):
        config = MPPIConfig(horizon=1, population=64, proposals=2, iterations=6, elites=8)
        planner = dataclasses.replace(config, coarse=coarse).build(BOX)
        run = eqx.filter_jit(
            lambda key: planner(Misleading(), jnp.zeros(1), planner.cold_start(), NO, key=key)
        )
        return run(jax.random.key(0))

    return plan


def test_rescoring_corrects_a_misleading_depth(plans):
    assert float(plans(CoarseConfig()).value[0]) == pytest.approx(0.32, abs=0.03)
    every = plans(CoarseConfig(depth=1, rescored=32))
    assert float(every.value[0]) == pytest.approx(0.32, abs=0.05)
    assert float(every.stats.loops) == pytest.approx(
        ((64 + 5 * 62) * 1 + 6 * 32 * 4) / (64 + 5 * 62 + 6 * 32)
    )
    # Coarse to the end but for the elites' weights: the coarse model's answer.
    last = plans(CoarseConfig(depth=1, rescoring=LAST))
    assert float(last.value[0]) > 0.4
    assert float(last.stats.loops) == pytest.approx(((64 + 5 * 62) * 1 + 8 * 4) / (64 + 5 * 62 + 8))
    later = plans(CoarseConfig(depth=1, iterations=2, rescoring=NEVER))
    assert float(later.value[0]) == pytest.approx(0.32, abs=0.05)
    assert float(later.stats.loops) == pytest.approx(
        ((64 + 62) * 1 + 4 * 64 * 4) / (64 + 62 + 4 * 64)
    )


@pytest.fixture(scope="module")
def networks(filled):
    model = LoopedConfig(latent=6, hidden=8, depth=3, core=CoreConfig(width=6))
    heads = ValueConfig(hidden=8, depth=1, bins=21)

    def made(discrete):
        def build(key):
            return build_networks(model, heads, Sizes(4, 2), actions=ACTIONS[discrete], key=key)

        return resolve(filled(build))

    return {discrete: made(discrete) for discrete in (True, False)}


@pytest.mark.parametrize("config", [MPPIConfig(**SMALL), CategoricalCEMConfig(**SMALL)])
def test_a_constant_schedule_decides_the_same_to_the_last_bit(config, networks, key, rng):
    model = NetworksModel(networks[config.discrete], None, discount=0.97, action_size=2)
    states = jnp.asarray(rng.normal(size=(3, 6)), jnp.float32)

    def decide(coarse):
        planner = dataclasses.replace(config, coarse=coarse).build(ACTIONS[config.discrete])
        one = lambda z, k: planner(model, z, planner.cold_start(), NO, key=k)  # noqa: E731
        return eqx.filter_jit(jax.vmap(one))(states, jax.random.split(key, 3))

    plain, constant = decide(CoarseConfig()), decide(CoarseConfig(depth=3, rescoring=LAST))
    coarse = decide(CoarseConfig(depth=1, rescoring=LAST))
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(constant), strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.all(np.asarray(plain.stats.loops) == 3.0)
    spent = ((8 + 2 * 6) * 1 + 2 * 3) / (8 + 2 * 6 + 2)  # two proposals are known later
    np.testing.assert_allclose(coarse.stats.loops, np.full(3, spent), rtol=1e-5)
    assert np.all(np.asarray(coarse.stats.mean) != np.asarray(plain.stats.mean))


def test_the_seam_gives_the_model_at_a_depth(networks, assert_helpful):
    model = NetworksModel(networks[True], None, discount=0.97, action_size=2)
    assert model.at_depth(3) is model
    assert model.at_depth(1).rule == FixedDepth(1)
    deeper = dataclasses.replace(model, rule=FixedDepth(9))
    assert deeper.at_depth(9) is deeper and deeper.at_depth(3).rule == FixedDepth(3)
    # A halting rule has no constant schedule: even its largest depth is another model.
    halting = dataclasses.replace(model, rule=CertifiedHalting(1e-3, max_depth=8))
    assert halting.at_depth(8).rule == FixedDepth(8)
    with pytest.raises(UsageError, match="4, more than the 3 loops") as raised:
        model.at_depth(4)
    assert_helpful(raised)


def test_terminal_scoring_by_hand(toys):
    model = toys["constant"](2.0, 0.8, 3.0)
    run = eqx.filter_jit(lambda u: score(model, jnp.asarray([7.0]), u, Scoring.TERMINAL))
    found = run(jnp.zeros((4, 1)))
    assert float(found.value) == pytest.approx(0.9**3 * (2.0 + 0.9 * 0.8 * 3.0 * 11.0), rel=1e-5)
    assert float(found.loops) == pytest.approx((7 + 8 + 9 + 10) / 4)
    # z: .5 → .2 → −.4: only the last pays, −.16.
    run = eqx.filter_jit(
        lambda u: score(toys["regulator"](), jnp.asarray([0.5]), u, Scoring.TERMINAL).value
    )
    assert float(run(jnp.asarray([[-0.3], [-0.6]]))) == pytest.approx(-0.16, rel=1e-5)


def test_terminal_scoring_ranks_as_the_sum_does_where_only_the_end_pays(toys):
    # z counts the steps of the sequence (1, 2): only its second action pays.
    def ranking(scoring):
        run = jax.vmap(
            lambda u: score(toys["tempting"](), jnp.zeros(2), jax.nn.one_hot(u, 3), scoring).value
        )
        return np.asarray(eqx.filter_jit(run)(jnp.asarray([[1, 2], [1, 1], [2, 2], [2, 1]])))

    np.testing.assert_allclose(ranking(Scoring.TERMINAL), ranking(Scoring.EACH_STEP))


@pytest.mark.parametrize(
    "coarse, name",
    [
        (CoarseConfig(depth=0), "coarse.depth"),
        (CoarseConfig(depth=1, iterations=0), "coarse.iterations"),
        (CoarseConfig(depth=1, rescored=1), "coarse.rescored"),
        (CoarseConfig(depth=1, rescored=9), "coarse.rescored"),
        (CoarseConfig(depth=1, rescoring=NEVER), "coarse.rescoring"),
        (CoarseConfig(depth=1, iterations=3, rescoring=NEVER), "coarse.rescoring"),
    ],
    ids=str,
)
@pytest.mark.parametrize("config", [MPPIConfig, CategoricalCEMConfig])
def test_coarse_settings_that_cannot_work_are_refused(config, coarse, name, assert_helpful):
    with pytest.raises(UsageError, match=name) as raised:
        config(**SMALL, coarse=coarse)
    assert_helpful(raised)


def test_terminal_scoring_of_one_step_is_refused(assert_helpful):
    for change in (
        {"scoring": Scoring.TERMINAL},
        {"coarse": CoarseConfig(depth=1, scoring=Scoring.TERMINAL)},
    ):
        with pytest.raises(UsageError, match="horizon is 1") as raised:
            MPPIConfig(**{**SMALL, "horizon": 1}, **change)
        assert_helpful(raised)


def test_a_run_refuses_a_coarse_depth_beyond_the_models(assert_helpful):
    deep = MPPIConfig(coarse=CoarseConfig(depth=5))
    for name, settings in (("mppi", deep), ("gradient.sampler", GradientConfig(sampler=deep))):
        planning = PlanningConfig(settings={name.split(".")[0]: settings})
        said = rf"planning.{name}.coarse.depth is 5, more than model.depth"
        with pytest.raises(UsageError, match=said) as raised:
            RunConfig(planning=planning)
        assert_helpful(raised)
