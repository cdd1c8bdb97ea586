"""The learner on a toy problem: what an update changes, and where its targets come from."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from loopwm.actions import ActionLayout
from loopwm.core import CoreConfig
from loopwm.models import LoopedConfig, Normalizer, Sizes, ValueConfig, build_networks
from loopwm.nn import resolve
from loopwm.programs import StoredProgram, stored
from loopwm.training import (
    DepthLaw,
    LearnerConfig,
    TrainingDepth,
    init_learner,
    learner,
    update,
)
from loopwm.training.learner import start_values
from loopwm.training.losses import Imagination, Sequence, imagine, value_targets
from loopwm.training.replay import SequenceBatch
from loopwm.training.reward_error import FLAT, reward_error

CONFIG = LearnerConfig(batch_size=4, sequence=2, imagination=3)


BUILDER = LoopedConfig(latent=6, hidden=6, depth=2, core=CoreConfig(width=6, layers=1))


def networks_for(discrete: bool, builder: LoopedConfig = BUILDER):
    return build_networks(
        builder,
        ValueConfig(hidden=6, depth=1, bins=21),
        Sizes(observation=3, action=2),
        actions=ActionLayout(2, (2,) if discrete else None),
        key=jax.random.key(0),
    )


def batch_of(updates: int, reward: float = 1.0) -> SequenceBatch:
    rng = np.random.default_rng(0)
    shape = (updates, CONFIG.batch_size, CONFIG.sequence)
    return SequenceBatch(
        observation=rng.normal(size=(*shape[:2], CONFIG.sequence + 1, 3)).astype(np.float32),
        action=np.eye(2, dtype=np.float32)[rng.integers(0, 2, shape)],
        reward=np.full(shape, reward, np.float32),
        terminated=np.zeros(shape, bool),
        valid=np.ones(shape, bool),
    )


@pytest.fixture(scope="module")
def discrete_networks():
    return networks_for(discrete=True)


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array))]


def test_values_start_at_the_mean_reward(discrete_networks):
    state = start_values(init_learner(discrete_networks, CONFIG, key=jax.random.key(1)), 0.4)
    z, u = jnp.ones(6), jnp.asarray([1.0, 0.0])
    for critic in (state.networks.critic, state.target_critic):
        assert np.allclose(critic.values(z, u), 0.4, atol=0.05)


@pytest.mark.parametrize(
    ("discrete", "law"), [(True, DepthLaw.FIXED), (False, DepthLaw.POISSON)], ids=str
)
def test_an_update_moves_everything_and_the_target_slowly(discrete, law):
    config = dataclasses.replace(CONFIG, depth=TrainingDepth(law))
    networks = networks_for(discrete)
    before = leaves(networks)
    state = init_learner(networks, config, key=jax.random.key(1))
    new, metrics = update(state, batch_of(3), Normalizer.create(3), 1.0, config)
    assert int(new.updates) == 3
    assert all(np.isfinite(float(value)) for value in vars(metrics.terms).values())
    # The caller's networks survive: updates give up buffers of the learner's own copies.
    assert all(np.array_equal(a, b) for a, b in zip(before, leaves(networks), strict=True))
    fast = sum(np.abs(a - b).sum() for a, b in zip(before, leaves(new.networks), strict=True))
    start, end = leaves(networks.critic), leaves(new.target_critic)
    slow = sum(np.abs(a - b).sum() for a, b in zip(start, end, strict=True))
    assert 0.0 < slow < 0.1 * fast
    if law is DepthLaw.FIXED:
        assert float(metrics.depth) == 2.0 and float(metrics.terms.gate) == 0.0
    assert new.average is None and new.depth is None and new.acting is new.networks


def test_wider_numbers_do_not_widen_the_state(discrete_networks):
    """With 64 bits switched on, a constant in an update would change the types of what it moves."""
    old = init_learner(discrete_networks, LearnerConfig(), key=jax.random.key(0))
    wide = jax.tree.map(lambda x: np.asarray(x, np.float64) if eqx.is_inexact_array(x) else x, old)
    arrays, wide = (eqx.filter(tree, eqx.is_array) for tree in (old, wide))
    new = learner._in_types_of(arrays, wide)
    for one, other in zip(jax.tree.leaves(arrays), jax.tree.leaves(new), strict=True):
        assert one.dtype == other.dtype


def test_average_gate_and_learned_depth_move_with_an_update():
    builder = LoopedConfig(
        latent=6, hidden=6, depth=2, core=CoreConfig(width=6, layers=1, gate=True)
    )
    networks = networks_for(True, builder)
    depth = TrainingDepth(DepthLaw.LEARNED)
    config = dataclasses.replace(CONFIG, average_rate=0.25, depth=depth)
    state = init_learner(networks, config, key=jax.random.key(1))
    averages, trained, means = [leaves(networks)], [leaves(networks)], [np.log(2.0)]
    for _ in range(2):
        state, metrics = update(state, batch_of(1), Normalizer.create(3), 1.0, config)
        averages.append(leaves(state.average))
        trained.append(leaves(state.networks))
        means.append(float(state.depth.log_mean))
        assert 1.0 <= float(metrics.depth) <= depth.largest_for(2)
        assert float(metrics.terms.gate) > 0.0
    for i in (0, 1):
        for old, new, fast in zip(averages[i], averages[i + 1], trained[i + 1], strict=True):
            np.testing.assert_allclose(new, old + 0.25 * (fast - old), rtol=1e-5, atol=1e-7)
        assert means[i + 1] != means[i]
    assert state.acting is state.average
    before, after = networks.world_model.core.gate, state.networks.world_model.core.gate
    assert float(before.bias) != float(after.bias)
    assert not np.array_equal(before.weight, after.weight)
    started = start_values(state, 0.4)
    values = started.average.critic.values(jnp.ones(6), jnp.asarray([1.0, 0.0]))
    assert np.allclose(values, 0.4, atol=0.05)


def test_losses_fall_on_a_fixed_batch(discrete_networks):
    state = init_learner(discrete_networks, CONFIG, key=jax.random.key(1))
    state, first = update(state, batch_of(8), Normalizer.create(3), 1.0, CONFIG)
    for _ in range(8):
        state, last = update(state, batch_of(8), Normalizer.create(3), 1.0, CONFIG)
    assert float(last.terms.reconstruction) < 0.95 * float(first.terms.reconstruction)
    assert float(last.terms.reward) < 0.2 * float(first.terms.reward)
    assert float(last.terms.continuation) < 0.7 * float(first.terms.continuation)


def test_the_reward_has_its_own_loss_and_curvature(discrete_networks):
    found = []
    for bend in (FLAT, 4.0):
        state = init_learner(discrete_networks, CONFIG, key=jax.random.key(1))
        state = dataclasses.replace(state, curvature=jnp.asarray(bend))
        _, metrics = update(state, batch_of(3), Normalizer.create(3), 1.0, CONFIG)
        found.append(float(metrics.terms.reward))
    # Fresh networks predict a reward near 0, and it is 1: 1 for the squared error, 4.8 here.
    low, high = (float(reward_error(jnp.zeros(()), jnp.ones(()), bend)) for bend in (FLAT, 4.0))
    assert found[1] / found[0] > high / low


def test_temperature_moves_against_missing_entropy(discrete_networks):
    state = init_learner(discrete_networks, CONFIG, key=jax.random.key(1))
    before = float(state.log_temperature)
    # A fresh policy is uniform: more entropy than its target, so the temperature falls.
    state, metrics = update(state, batch_of(3), Normalizer.create(3), 1.0, CONFIG)
    assert float(metrics.terms.entropy) > discrete_networks.policy.target_entropy()
    assert float(state.log_temperature) < before


def test_temperature_moves_by_the_mean_over_the_actions_entries():
    # By their sum it would outrun the policy, and swing without end where there are many.
    networks = build_networks(
        BUILDER,
        ValueConfig(hidden=6, depth=1, bins=21),
        Sizes(observation=3, action=6),
        actions=ActionLayout(6),
        key=jax.random.key(0),
    )
    policy, batch = networks.policy, batch_of(1)
    action = np.zeros((*batch.action.shape[:-1], 6), np.float32)
    state = init_learner(networks, CONFIG, key=jax.random.key(1))
    before = float(state.log_temperature)
    batch = dataclasses.replace(batch, action=action)
    state, metrics = update(state, batch, Normalizer.create(3), 1.0, CONFIG)
    missing = policy.target_entropy().sum() - float(metrics.terms.entropy)
    moved = float(state.log_temperature) - before
    np.testing.assert_allclose(moved, CONFIG.temperature_rate * missing / 6, rtol=1e-4)


def targets_with(networks, *, terminated: bool, dreamt_end: bool):
    """Targets where the target critic answers 0.5 everywhere and every reward is 0."""
    networks = resolve(networks)
    critic = networks.critic.started_at(jnp.asarray(0.5))
    sequence = Sequence(
        observation=jnp.zeros((3, 3)),
        action=jnp.zeros((2, 2)),
        reward=jnp.zeros(2),
        terminated=jnp.asarray([terminated, False]),
        valid=jnp.asarray([True, not terminated]),
    )
    goes_on = jnp.asarray([1.0, 0.0 if dreamt_end else 1.0, 1.0])
    dream = Imagination(
        z=jnp.zeros((4, 6)),
        action=jnp.zeros((3, 2)),
        reward=jnp.zeros(3),
        continuation=goes_on,
        weight=jnp.ones(3),
    )
    config = dataclasses.replace(CONFIG, imagined_trace=1.0, trace=1.0)
    value = float(critic.values(jnp.zeros(6), jnp.zeros(2))[0])
    found = value_targets(
        networks, critic, sequence, jnp.zeros((3, 6)), dream, config, jax.random.key(0)
    )
    return np.asarray(found), value, config.discount


def test_targets_bootstrap_unless_the_task_terminates(discrete_networks):
    # H = 2 replayed steps, then K = 3 imagined ones, all with λ = 1 and no reward.
    found, v, g = targets_with(discrete_networks, terminated=False, dreamt_end=False)
    assert np.allclose(found, [g**4 * v, g * v, g**3 * v, g**2 * v, g * v], atol=1e-5)


def test_termination_stops_replayed_and_imagined_returns(discrete_networks):
    found, v, g = targets_with(discrete_networks, terminated=True, dreamt_end=True)
    assert np.allclose(found[[0, 2, 3]], 0.0, atol=1e-6)
    assert np.allclose(found[4], g * v, atol=1e-5)


def test_imagination_stops_counting_after_an_expected_end(discrete_networks):
    networks = resolve(discrete_networks)
    head = networks.world_model.head.readout
    ending = eqx.tree_at(lambda h: h.bias, head, jnp.asarray([0.0, -50.0]))
    ending = eqx.tree_at(lambda n: n.world_model.head.readout, networks, ending)
    dream = imagine(ending, jnp.zeros(6), CONFIG, key=jax.random.key(0))
    assert dream.z.shape == (4, 6)
    assert np.allclose(dream.continuation, 0.0, atol=1e-6)
    assert np.allclose(dream.weight, [1.0, 0.0, 0.0], atol=1e-6)


def test_a_program_of_an_earlier_process_updates_alike(discrete_networks, tmp_path, monkeypatch):
    def trained():
        monkeypatch.setattr(learner._updates, "_programs", {})
        state = init_learner(discrete_networks, CONFIG, key=jax.random.key(1))
        return update(state, batch_of(2), Normalizer.create(3), 1.0, CONFIG)

    traced = trained()
    monkeypatch.setattr(stored, "_folder", [tmp_path])
    kept = trained()
    made = sorted(tmp_path.glob("*.program"))
    monkeypatch.setattr(StoredProgram, "_compile", None)
    loaded = trained()
    assert made and sorted(tmp_path.glob("*.program")) == made
    assert eqx.tree_equal(traced, kept, loaded)
