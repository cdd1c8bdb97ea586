"""Gradient refinement: no return falls, no action leaves the box, and known optima are reached."""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from loopwm.actions import ActionLayout
from loopwm.core import RESULTS, CertifiedHalting, CoreConfig, FixedDepth
from loopwm.errors import UsageError
from loopwm.models import LoopedConfig, Sizes, ValueConfig, build_networks
from loopwm.nn import resolve
from loopwm.planning import GradientConfig, ICEMConfig, MPPIConfig, NetworksModel, score
from loopwm.planning import differentiable as nearest

SMALL = {"horizon": 3, "population": 16, "proposals": 2, "iterations": 2, "elites": 6}
CONFIG = GradientConfig(sampler=MPPIConfig(**SMALL), refined=3, steps=4)


@functools.partial(eqx.filter_jit, compiler_options={"xla_backend_optimization_level": 0})
def _refined(planner, model, z, starts):
    def one(u):
        found = planner.refine(model, z, u)
        scoring = planner.sampler.ranker.scoring
        return found, score(model, z, u).value, score(model, z, found.sequence, scoring).value

    return jax.vmap(one)(starts)


def refined(model, z, starts, **change):
    return _refined(
        dataclasses.replace(CONFIG, **change).build(ActionLayout.box(model.action_size)),
        model,
        z,
        starts,
    )


@pytest.mark.parametrize("rate", [0.02, 3.0])
def test_no_return_falls_and_no_action_leaves_the_box(rate, toys):
    starts = jax.random.uniform(jax.random.key(0), (64, 3, 2), minval=-1.0, maxval=1.0)
    found, before, after = refined(toys["waves"](), jnp.zeros(2), starts, rate=rate)
    np.testing.assert_allclose(found.start, before, atol=1e-5)
    np.testing.assert_allclose(found.value, after, atol=1e-5)
    assert np.all(found.value >= found.start)
    assert np.all(np.abs(found.sequence) <= 1.0)
    np.testing.assert_array_equal(found.loops, np.ones(64))
    better = np.asarray(found.value > found.start)
    # Small steps always help; steps of three boxes often do not, and then nothing is lost.
    assert better.all() if rate == 0.02 else 0.0 < better.mean() < 0.9
    kept = np.asarray(found.sequence)[~better]
    np.testing.assert_array_equal(kept, np.asarray(starts)[~better])


def test_a_step_to_no_number_is_not_kept_and_a_start_that_is_none_is_said(toys):
    starts = jnp.stack([jnp.zeros((3, 1)), jnp.full((3, 1), 0.9)])
    found, before, after = refined(toys["torn"](), jnp.zeros(1), starts, rate=0.3)
    # Of 0, 0.3, 0.6, … the second is the last whose return is a number.
    np.testing.assert_allclose(found.value, [0.9, np.nan], atol=1e-5)
    np.testing.assert_allclose(after, [0.9, np.nan], atol=1e-5)
    np.testing.assert_allclose(before, [0.0, np.nan], atol=1e-5)


def test_the_optimum_of_a_linear_quadratic_problem(toys):
    starts = jax.random.uniform(jax.random.key(1), (8, 3, 1), minval=-1.0, maxval=1.0)
    found, _, _ = refined(toys["regulator"](), jnp.full(1, 0.5), starts, steps=60)
    np.testing.assert_allclose(found.value, np.zeros(8), atol=0.02)
    np.testing.assert_allclose(found.sequence[:, 0], np.full((8, 1), -0.5), atol=0.12)
    # Out of reach: all the way to the edge, and not over it.
    edge, _, _ = refined(toys["regulator"](), jnp.full(1, 3.0), starts, steps=60)
    np.testing.assert_allclose(edge.sequence, np.full((8, 3, 1), -1.0), atol=1e-6)


@pytest.mark.parametrize(
    "sampler", [MPPIConfig(**SMALL), ICEMConfig(**SMALL)], ids=["mppi", "icem"]
)
def test_a_decision_is_the_samplers_or_better(sampler, toys, plans):
    model, z = toys["waves"](), jnp.zeros(2)
    planner = dataclasses.replace(CONFIG, sampler=sampler).build(ActionLayout.box(2))
    alone, wrapped = plans(sampler.build(ActionLayout.box(2)), model, z), plans(planner, model, z)
    own, more = alone.stats.returns, wrapped.stats.returns
    for name in ("best", "mean", "spread"):
        assert getattr(more, name).shape == (32, 3)
        np.testing.assert_allclose(
            getattr(more, name)[:, :2], getattr(own, name), rtol=1e-5, atol=1e-5
        )
    assert np.all(more.best[:, 2] >= more.best[:, 1]) and np.any(more.best[:, 2] > own.best[:, 1])
    np.testing.assert_array_equal(wrapped.stats.best, more.best[:, 2])
    assert np.all(np.abs(wrapped.value) <= 1.0) and np.all(wrapped.result == RESULTS.successful)
    # Warm starts are the sampler's own.
    cold = planner.cold_start()
    assert jax.tree.structure(cold) == jax.tree.structure(wrapped.warm_start)
    broken = toys["constant"](jnp.nan, 1.0, 0.0, action_size=2)
    assert np.all(plans(planner, broken, jnp.zeros(2)).result == RESULTS.nonfinite)


def test_settings_name_the_sampler(assert_helpful):
    from loopwm import settings

    built = settings.build(GradientConfig, {"sampler": {"name": "icem", "beta": 0.5}, "steps": 2})
    assert built.sampler == ICEMConfig(beta=0.5) and built.steps == 2
    assert settings.build(GradientConfig, settings.dump(built)) == built
    with pytest.raises(UsageError, match="sampler.name") as raised:
        settings.build(GradientConfig, {"sampler": {"name": "policy"}})
    assert "did you mean" in str(raised.value)


def test_a_rule_without_a_gradient_still_scores(filled):
    sizes, heads = Sizes(4, 2), ValueConfig(hidden=8, depth=1, bins=21)
    config = LoopedConfig(latent=6, hidden=8, depth=2, core=CoreConfig(width=6))
    box = ActionLayout.box(2)
    build = lambda key: build_networks(config, heads, sizes, actions=box, key=key)  # noqa: E731
    model = NetworksModel(resolve(filled(build)), None, discount=0.97, action_size=2)
    assert nearest(model) is model
    fixed = dataclasses.replace(model, rule=FixedDepth(5))
    assert nearest(fixed) is fixed
    halting = dataclasses.replace(model, rule=CertifiedHalting(1e-2, max_depth=8))
    assert nearest(halting).rule is None
    starts = jax.random.uniform(jax.random.key(0), (8, 3, 2), minval=-1.0, maxval=1.0)
    found, before, after = refined(halting, jnp.full(6, 0.1), starts)
    np.testing.assert_allclose(found.start, before, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.value, after, rtol=1e-4, atol=1e-6)
    assert np.all(found.value >= found.start) and np.any(found.value > found.start)
