"""The looped world model: bounded for ever, and made of the parts it says."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from loopwm.actions import ActionLayout
from loopwm.core import RESULTS, CoreConfig, FixedDepth, ResidualHalting
from loopwm.errors import UsageError
from loopwm.models import (
    WORLD_MODELS,
    LoopedConfig,
    Sizes,
    ValueConfig,
    build_networks,
    count_parameters,
)
from loopwm.nn import MLP, ConvexPotential, resolve
from loopwm.stability import certify

STEPS = 300
RADIUS = np.sqrt(8.0)


@eqx.filter_jit
def _rollout(model, observation, actions):
    """Norms of the encoded and of every imagined latent state."""
    model = resolve(model)
    z = model.encode(observation)

    def body(state, u):
        new = model.transition(state, u).value
        return new, (jnp.linalg.norm(new), jnp.max(jnp.abs(new - state)))

    _, (norms, changes) = jax.lax.scan(body, z, actions)
    return jnp.concatenate([jnp.linalg.norm(z)[None], norms]), changes


@pytest.mark.parametrize("factor", [1.0, 30.0, 1e4, 1e-3])
@pytest.mark.parametrize("action_scale", [1.0, 1e5])
def test_long_rollouts_stay_in_the_ball(factor, action_scale, multiplied, rng):
    actions = jnp.asarray(action_scale * rng.normal(size=(STEPS, 2)), jnp.float32)
    observation = jnp.asarray(1e3 * rng.normal(size=4), jnp.float32)
    norms, changes = _rollout(multiplied(factor), observation, actions)
    assert norms.shape == (STEPS + 1,)
    assert np.all(np.isfinite(norms)) and float(jnp.max(norms)) <= RADIUS * (1 + 1e-6)
    if factor >= 1.0:  # bounded, and not because nothing happens
        assert float(jnp.min(changes)) > 1e-4
    if factor == 1e4:
        assert float(jnp.max(norms)) > 0.99 * RADIUS


def test_transition_adds_the_core_and_projects(small_model, rng):
    z = jnp.asarray(rng.normal(size=8), jnp.float32)
    u = jnp.asarray([1.0, 0.0])

    @eqx.filter_jit
    def run(model):
        rules = (None, FixedDepth(5), ResidualHalting(1e-2))
        changes = [model.core(z, u, FixedDepth(depth)).value for depth in (2, 5)]
        other = model.transition(z, u[::-1])
        return changes, other, [model.transition(z, u, rule) for rule in rules]

    changes, other, (default, deep, halted) = run(small_model)
    for change, solution, depth in ((changes[0], default, 2), (changes[1], deep, 5)):
        moved = np.asarray(z + change, np.float64)
        expected = moved / np.sqrt(1 + np.sum(moved**2) / 8.0)
        np.testing.assert_allclose(solution.value, expected, atol=1e-5)
        assert int(solution.stats.loops) == depth and solution.result == RESULTS.successful
    assert int(halted.stats.loops) > 2 and float(halted.stats.residual) <= 1e-2
    assert float(jnp.max(jnp.abs(other.value - default.value))) > 1e-3


def test_every_head_uses_what_it_is_given(small_model, rng):
    z, after = (jnp.asarray(rng.normal(size=8), jnp.float32) for _ in range(2))
    u = jnp.asarray([1.0, 0.0])
    outcome = eqx.filter_jit(small_model.outcome)
    base = outcome(z, u, after)
    for changed in (outcome(-z, u, after), outcome(z, u[::-1], after), outcome(z, u, -after)):
        assert abs(float(changed.reward - base.reward)) > 1e-4
        assert abs(float(changed.continuation_logit - base.continuation_logit)) > 1e-4
    assert abs(float(base.reward - base.continuation_logit)) > 1e-4
    decode = eqx.filter_jit(small_model.decode)
    assert decode(z).shape == (4,)
    assert float(jnp.max(jnp.abs(decode(z) - decode(after)))) > 1e-3


def test_its_core_is_certified(multiplied):
    for factor in (1.0, 1e4):
        certificate = certify(multiplied(factor).core)
        assert certificate.level == "global" and certificate.rate < 1


def test_gradients_reach_every_weight(small_model, rng):
    observation = jnp.asarray(rng.normal(size=4), jnp.float32)

    def loss(model):
        model = resolve(model)
        z = model.encode(observation)
        u = jnp.asarray([0.3, -0.7])
        after = model.transition(z, u).value
        outcome = model.outcome(z, u, after)
        return jnp.sum(model.decode(after)) + outcome.reward + outcome.continuation_logit

    gradient = eqx.filter_jit(eqx.filter_grad(loss))(small_model)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.all(np.isfinite(leaf)), jax.tree_util.keystr(path)
        assert np.any(leaf != 0), jax.tree_util.keystr(path)


@pytest.mark.parametrize("name", WORLD_MODELS)
def test_every_registered_model_builds_and_imagines(name, filled, rng):
    model = filled(lambda key: WORLD_MODELS[name]().build(Sizes(3, 2, (3, 1, 1)), key=key))

    @eqx.filter_jit
    def run(model, observation, u):
        model = resolve(model)
        z = model.encode(observation)
        solution = model.transition(z, u)
        return solution, model.decode(solution.value), model.outcome(z, u, solution.value)

    observation = jnp.asarray(rng.normal(size=3), jnp.float32)
    solution, decoded, outcome = run(model, observation, jnp.asarray([0.0, 1.0]))
    assert solution.value.shape == (model.latent,) and decoded.shape == (3,)
    assert outcome.reward.shape == outcome.continuation_logit.shape == ()
    assert int(solution.stats.loops) >= 1 and solution.result == RESULTS.successful
    assert np.all(np.isfinite(solution.value)) and np.all(np.isfinite(decoded))
    assert 0 < count_parameters(model.core) < count_parameters(model)


def test_default_sizes_are_within_the_promise(filled):
    # The README's table: core at most 30 k, everything at most 100 k parameters, on CartPole.
    networks = filled(
        lambda key: build_networks(
            LoopedConfig(), ValueConfig(), Sizes(4, 2), actions=ActionLayout.categorical(2), key=key
        )
    )
    assert 5_000 < count_parameters(networks.world_model.core) <= 30_000
    assert 20_000 < count_parameters(networks) <= 100_000


def test_count_parameters_by_hand(filled):
    # 3·8 + 8 linear, 8 + 8 LayerNorm, 8·2 + 2 read-out.
    assert count_parameters(filled(lambda key: MLP(3, 2, width=8, key=key))) == 66
    # S 3×4 counted once though capped, U 3×2, b 3.
    assert count_parameters(filled(lambda key: ConvexPotential(4, 3, 2, key=key))) == 21
    assert count_parameters({"integers": jnp.arange(5), "name": "x", "none": None}) == 0


@pytest.mark.parametrize("field", ["latent", "hidden", "depth"])
def test_sizes_below_one_are_refused(field, assert_helpful):
    with pytest.raises(UsageError, match=f"model.{field} is 0") as raised:
        LoopedConfig(**{field: 0})
    assert_helpful(raised)
    assert LoopedConfig(core=CoreConfig(width=4)).core.width == 4
