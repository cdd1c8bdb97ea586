"""Exploring through the model: what is added to imagined rewards, and when."""

import dataclasses
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from loopwm.actions import ActionLayout
from loopwm.core import CoreConfig, FixedDepth
from loopwm.errors import UsageError
from loopwm.models import LoopedConfig, Sizes, ValueConfig, build_networks
from loopwm.models.conventional import EnsembleConfig
from loopwm.nn import resolve
from loopwm.planning import (
    Bonus,
    ExploringModel,
    NetworksModel,
    PlanningConfig,
    check_bonus,
    exploring,
    score,
)
from loopwm.stability import Mode

KINDS = [bonus for bonus in Bonus if bonus is not Bonus.NONE]
SIZES, LAYOUT = Sizes(4, 2), ActionLayout.categorical(2)


def networks_of(filled, config):
    heads = ValueConfig(hidden=8, depth=1, bins=21)
    return filled(lambda key: build_networks(config, heads, SIZES, actions=LAYOUT, key=key))


@pytest.fixture(scope="module")
def model(filled):
    config = LoopedConfig(latent=6, hidden=8, depth=3, core=CoreConfig(width=6))
    networks = resolve(networks_of(filled, config))
    zoomed = eqx.tree_at(lambda n: n.critic.zoom, networks, jnp.asarray(2, jnp.int32))
    return NetworksModel(zoomed, None, discount=0.9, action_size=2)


def unsure(model, bonus, z, u):
    """b of a transition, from the networks themselves."""
    networks = model.networks
    values = np.asarray(networks.critic.values(z, u), np.float64)
    stats = networks.world_model.transition(z, u, model.rule).stats
    return {
        Bonus.RESIDUAL: float(stats.residual),
        Bonus.CERTIFIED: float(stats.error_bound),
        Bonus.DISAGREEMENT: float(np.sqrt(np.mean((values - values.mean()) ** 2))),
    }[bonus]


@pytest.mark.parametrize("explore", [False, True])
def test_members_that_agree_exactly_have_a_gradient(model, explore):
    """Of the standard deviation of equal values there is none; the planner `gradient` takes it."""
    members = model.networks.critic.members
    alike = jax.tree.map(lambda x: jnp.broadcast_to(x[:1], x.shape), members)
    model = eqx.tree_at(lambda m: m.networks.critic.members, model, alike)
    curious = exploring(model, Bonus.DISAGREEMENT, 3.0, jnp.asarray(explore))

    @eqx.filter_jit
    def reward(u):
        return jax.value_and_grad(lambda u: curious.step(jnp.full(6, 0.1), u).reward)(u)

    value, gradient = reward(jnp.asarray([0.0, 1.0]))
    assert np.isfinite(value) and np.all(np.isfinite(gradient))


@pytest.mark.parametrize("bonus", KINDS)
def test_a_step_while_exploring_pays_the_bonus_and_nothing_else_changes(model, bonus, rng):
    z, u = jnp.asarray(rng.normal(size=6), jnp.float32), jnp.asarray([0.0, 1.0])

    @eqx.filter_jit
    def step(explore):
        return exploring(model, bonus, 3.0, explore).step(z, u), model.step(z, u)

    raised, plain = step(jnp.asarray(True))
    b = unsure(model, bonus, z, u)
    assert b > 1e-5
    # In units of values: (1 − γ) · 2ⁿ = 0.1 · 4, times w = 3.
    np.testing.assert_allclose(raised.reward - plain.reward, 0.4 * 3.0 * b, rtol=1e-3, atol=1e-6)
    same, plain = step(jnp.asarray(False))
    for found in (dataclasses.replace(raised, reward=plain.reward), same):
        assert all(map(np.array_equal, jax.tree.leaves(found), jax.tree.leaves(plain)))


def test_sequences_are_ranked_by_return_and_bonus(model, rng):
    z = jnp.asarray(rng.normal(size=6), jnp.float32)
    sequences = jnp.asarray([np.eye(2)[list(c)] for c in itertools.product((0, 1), repeat=2)])
    raised = exploring(model, Bonus.RESIDUAL, 2.0, jnp.asarray(True))
    found = eqx.filter_jit(jax.vmap(lambda u: score(raised, z, u).value))(sequences)
    step = eqx.filter_jit(model.step)
    for sequence, value in zip(sequences, found, strict=True):
        one = step(z, sequence[0])
        b = [
            unsure(model, Bonus.RESIDUAL, state, sequence[i]) for i, state in enumerate((z, one.z))
        ]
        added = 0.4 * 2.0 * (b[0] + 0.9 * float(one.continuation) * b[1])
        plain = float(eqx.filter_jit(score)(model, z, sequence).value)
        assert float(value) == pytest.approx(plain + added, rel=1e-3, abs=1e-5)


def test_the_model_inside_answers_everything_else(model, key):
    z = jnp.zeros(6)
    assert exploring(model, Bonus.NONE, 1.0, jnp.asarray(True)) is model
    raised = exploring(model, Bonus.RESIDUAL, 1.0, jnp.asarray(True))
    assert isinstance(raised, ExploringModel)
    assert (raised.discount, raised.action_size) == (0.9, 2)
    assert raised.at_depth(3) is raised and raised.differentiable() is raised
    assert raised.at_depth(1).inside.rule == FixedDepth(1)
    with pytest.raises(UsageError, match="coarse depth is 4"):
        raised.at_depth(4)
    for ask in (
        lambda m: m.value(z),
        lambda m: m.propose(z, key=key),
        lambda m: m.log_prior(z),
    ):
        np.testing.assert_array_equal(eqx.filter_jit(ask)(raised), eqx.filter_jit(ask)(model))


def test_a_bonus_that_the_model_cannot_give_is_refused(filled, assert_helpful):
    one_pass = networks_of(filled, EnsembleConfig(latent=6, hidden=8, width=6, members=2))
    free = LoopedConfig(latent=6, hidden=8, depth=2, core=CoreConfig(width=6, mode=Mode.FREE))
    bare = networks_of(filled, free)
    for bonus, networks, said in (
        (Bonus.RESIDUAL, one_pass, "imagines in one pass"),
        (Bonus.CERTIFIED, one_pass, "imagines in one pass"),
        (Bonus.CERTIFIED, bare, "not certified to contract"),
    ):
        with pytest.raises(UsageError, match=said) as raised:
            check_bonus(bonus, networks.world_model)
        assert_helpful(raised)
    check_bonus(Bonus.DISAGREEMENT, one_pass.world_model)
    check_bonus(Bonus.RESIDUAL, bare.world_model)
    with pytest.raises(UsageError, match="bonus_weight is -1") as raised:
        PlanningConfig(bonus_weight=-1.0)
    assert_helpful(raised)
