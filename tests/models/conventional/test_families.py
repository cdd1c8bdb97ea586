"""What every conventional world model keeps: the seam, learning, saving, sizes."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import SIZES, SMALL, swinging

from loopwm.actions import ActionLayout
from loopwm.core import RESULTS, CoreConfig, FixedDepth
from loopwm.errors import UsageError
from loopwm.models import (
    WORLD_MODELS,
    AuxiliaryLoss,
    LoopedConfig,
    Remembering,
    Scalable,
    Sizes,
    ValueConfig,
    build_networks,
    check_depth,
    count_parameters,
    present,
    present_size,
    resolve_networks,
)
from loopwm.models.conventional.rssm import Code
from loopwm.nn import resolve
from loopwm.programs import program_name
from loopwm.settings import build, dump
from loopwm.training import (
    Decoding,
    DeferredConfig,
    OpenLoopWorldModel,
    RunConfig,
    RunFolder,
    SupervisedConfig,
    checkpoint,
    predict,
    train_open_loop,
)

REMEMBERED = {"rssm": 5, "transformer": 2 * (1 + 5 + 2)}
"""Entries of memory in z."""


@pytest.fixture(scope="module")
def models(filled):
    return {
        name: filled(lambda key, c=config: c.build(SIZES, key=key))
        for name, config in SMALL.items()
    }


def test_every_family_is_registered():
    assert {type(config) for config in SMALL.values()} <= set(WORLD_MODELS.values())
    assert set(SMALL) == set(WORLD_MODELS) - {"looped", "grid", "tokens"}


@eqx.filter_jit
@eqx.filter_grad(has_aux=True)
def _everything(model, observations, actions):
    """Gradient of all that a model computes, and what came out, for a batch of sequences."""
    model = resolve(model)

    def one(observation, action):
        def body(z, u):
            solution = model.transition(z, u, FixedDepth(7))
            return solution.value, (solution, model.outcome(z, u, solution.value))

        first = model.encode(observation[0])
        last, (solutions, outcomes) = jax.lax.scan(body, first, action)
        own = jnp.zeros(())
        if isinstance(model, AuxiliaryLoss):
            valid = jnp.ones(len(action), bool)
            own = model.auxiliary(observation, action, valid, key=jax.random.key(0))
        return first, solutions, outcomes, jax.vmap(model.decode)(solutions.value), last, own

    found = jax.vmap(one)(observations, actions)
    _, solutions, outcomes, decoded, last, own = found
    total = jnp.sum(decoded) + jnp.sum(outcomes.reward) + jnp.sum(outcomes.continuation_logit)
    return total + jnp.sum(last) + jnp.sum(own), found


@pytest.mark.parametrize("name", SMALL)
def test_seam_under_jit_and_vmap_with_gradient_everywhere(name, models):
    model, data = models[name], swinging(4, 5, seed=0)
    gradient, found = _everything(model, *data)
    first, solutions, outcomes, decoded, last, own = found
    assert first.shape == last.shape == (4, model.latent) and decoded.shape == (4, 5, 3)
    assert outcomes.reward.shape == outcomes.continuation_logit.shape == (4, 5)
    for leaf in jax.tree.leaves((first, solutions.value, outcomes, decoded, own)):
        assert np.all(np.isfinite(leaf))
    # A depth rule has nothing to decide: one pass, which nothing is proven of.
    assert model.depth == 1 and np.all(np.asarray(solutions.stats.loops) == 1)
    assert np.all(np.asarray(solutions.result == RESULTS.successful))
    assert np.all(np.isinf(solutions.stats.error_bound))
    now = np.asarray(present(model, solutions.value))
    moved = np.linalg.norm(np.diff(now, axis=1), axis=-1)
    np.testing.assert_allclose(solutions.stats.residual[:, 1:], moved, rtol=1e-4, atol=1e-6)
    silent = [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradient)
        if not (np.all(np.isfinite(leaf)) and np.any(leaf != 0))
    ]
    assert not silent


@pytest.mark.parametrize("name", SMALL)
def test_memory_lies_behind_the_present_and_starts_empty(name, models):
    model, memory = models[name], REMEMBERED.get(name, 0)
    assert isinstance(model, Remembering)
    assert present_size(model) == model.present == model.latent - memory
    z = np.asarray(eqx.filter_jit(model.encode)(jnp.ones(3)))
    assert np.all(z[model.present :] == 0.0) and np.any(z[: model.present] != 0.0)


@pytest.mark.parametrize(
    "actions",
    [ActionLayout.box(2), ActionLayout.categorical(3), ActionLayout.categorical(2, 3)],
    ids=lambda layout: f"{layout.size} {layout.groups}",
)
@pytest.mark.parametrize("name", REMEMBERED)
def test_critic_and_policy_read_the_present(name, actions, filled):
    sizes, heads = Sizes(3, actions.size), ValueConfig(hidden=4, depth=1)
    networks = filled(
        lambda key: build_networks(SMALL[name], heads, sizes, actions=actions, key=key)
    )
    model = networks.world_model
    assert model.latent > model.present
    z = jnp.arange(1.0, 1.0 + model.latent) / model.latent
    other = z.at[model.present :].set(-5.0)

    @eqx.filter_jit
    def read(networks, z):
        key, policy = jax.random.key(0), networks.policy
        u = policy.sample(z, key=key)
        return networks.critic.logits(z, u), policy.mode(z), policy.weighted_actions(z, key=key), u

    first, second = jax.tree.leaves(read(networks, z)), jax.tree.leaves(read(networks, other))
    for one, two in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, two)
    assert np.any(first[0] != read(networks, -z)[0])


@pytest.mark.parametrize("name", SMALL)
def test_its_programs_can_be_kept(name, filled):
    # Their names follow from code and arguments; None would be: not to be kept.
    heads, actions = ValueConfig(hidden=4, depth=1), ActionLayout.box(2)

    def name_of(config):
        networks = filled(
            lambda key: build_networks(config, heads, SIZES, actions=actions, key=key)
        )
        return program_name(resolve_networks, (networks,))

    assert name_of(SMALL[name]) is not None
    if name == "rssm":  # the same arrays, imagined otherwise
        mode = dataclasses.replace(SMALL[name], imagination=Code.MODE)
        assert name_of(mode) != name_of(SMALL[name])


def _error(model, data):
    """Root mean squared error of the last prediction, over that of predicting the mean."""
    wanted = data.observation[:, -1]
    found = eqx.filter_jit(predict)(model, data.observation[:, 0], data.action, Decoding.EACH_STEP)
    missed = np.sqrt(np.mean((found[:, -1] - wanted) ** 2))
    return missed / np.sqrt(np.mean(np.var(wanted, axis=0)))


LEARNING = {
    "latent_mlp": dataclasses.replace(SMALL["latent_mlp"], latent=32, hidden=32, width=32, group=8),
    "gru": dataclasses.replace(SMALL["gru"], latent=24, hidden=32, width=24),
    "rssm": dataclasses.replace(SMALL["rssm"], groups=8, classes=8, width=24, hidden=32),
    "transformer": dataclasses.replace(SMALL["transformer"], latent=24, hidden=32, width=24),
    "ensemble": dataclasses.replace(SMALL["ensemble"], latent=24, hidden=32, width=24),
    **{
        name: dataclasses.replace(
            SMALL[name], latent=24, hidden=32, core=CoreConfig(width=24, layers=1)
        )
        for name in ("unshared", "single_pass", "width_matched")
    },
}


@pytest.mark.parametrize("name", LEARNING)
def test_it_learns_a_known_system(name):
    horizon, key = 4, jax.random.key(0)
    data, unseen = swinging(256, horizon, seed=0), swinging(128, horizon, seed=1)
    config = SupervisedConfig(
        decoding=Decoding.EACH_STEP,
        horizon=DeferredConfig(steps=horizon),
        updates=200,
        batch_size=64,
        learning_rate=1e-2,
    )
    fresh = OpenLoopWorldModel(eqx.filter_jit(LEARNING[name].build)(SIZES, key=key))
    trained = train_open_loop(
        fresh, data, config, lambda found, seen: jnp.mean((found - seen) ** 2), key=key
    )
    before, after = _error(fresh, unseen), _error(trained.model, unseen)
    assert np.isfinite(trained.loss)
    assert after < 0.5 and after < 0.6 * before  # 1 is predicting the mean


@pytest.mark.parametrize("name", SMALL)
def test_saved_and_loaded_in_a_run_folder(name, models, filled, tmp_path):
    config = RunConfig(model=SMALL[name])
    folder = RunFolder.create(tmp_path / "run", config)
    checkpoint.save(folder, 7, checkpoint.arrays_of(models[name]), {}, {"none": np.zeros(1)})
    again = RunFolder.open(tmp_path / "run")
    assert again.read_config() == config and build(RunConfig, dump(config)) == config
    other = filled(lambda key: again.read_config().model.build(SIZES, key=key), seed=1)
    loaded = checkpoint.with_arrays(other, checkpoint.load(again)[0])
    for one, two in zip(jax.tree.leaves(models[name]), jax.tree.leaves(loaded), strict=True):
        np.testing.assert_array_equal(one, two)


def test_what_counts_as_core(models):
    for name, model in models.items():
        assert 0 < count_parameters(model.core) < count_parameters(model), name
    rssm, parts = models["rssm"], ("encoder", "posterior", "decoder", "head", "core")
    assert count_parameters(rssm) == sum(count_parameters(getattr(rssm, p)) for p in parts)
    stack = count_parameters(models["single_pass"].core)
    block = count_parameters(models["single_pass"].core.blocks)
    assert count_parameters(models["unshared"].core) == stack + 2 * block


@pytest.mark.parametrize("name", SMALL)
def test_a_depth_is_refused(name, models, assert_helpful):
    check_depth(None, models[name])
    with pytest.raises(UsageError, match="one pass") as raised:
        check_depth(FixedDepth(2), models[name])
    assert_helpful(raised)


def test_widths_keep_proportions():
    for config in (*SMALL.values(), LoopedConfig()):
        assert isinstance(config, Scalable)
        assert config.at_width(config.width) == config
        wide = config.at_width(2 * config.width)
        assert wide.width == 2 * config.width and wide.hidden == 2 * config.hidden


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("latent_mlp", {"latent": 10}),
        ("latent_mlp", {"layers": 0}),
        ("gru", {"width": 0}),
        ("rssm", {"unimix": 0.0}),
        ("rssm", {"free_nats": -1.0}),
        ("rssm", {"representation_weight": float("nan")}),
        ("transformer", {"width": 7}),
        ("transformer", {"window": 0}),
        ("ensemble", {"members": 1}),
        ("ensemble", {"bound_weight": -0.1}),
        ("unshared", {"blocks": 0}),
        ("unshared", {"core": CoreConfig(gate=True)}),
        ("single_pass", {"hidden": 0}),
        ("width_matched", {"loops": 0}),
    ],
    ids=str,
)
def test_impossible_sizes_are_refused(name, change, assert_helpful):
    with pytest.raises(UsageError, match="model") as raised:
        dataclasses.replace(SMALL[name], **change)
    assert_helpful(raised)
