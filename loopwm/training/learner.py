"""The learner: one jitted call makes several updates."""

import functools
from typing import NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PRNGKeyArray

from loopwm.core import SampledDepth
from loopwm.models import Critic, Networks, Normalizer
from loopwm.nn import resolve
from loopwm.programs import RUNS_ONCE, StoredProgram
from loopwm.training.config import LearnerConfig
from loopwm.training.depth import (
    DepthLaw,
    LearnedDepth,
    draw_counts,
    init_learned,
    log_mean_gradient,
    mean_depth,
    move_mean,
)
from loopwm.training.devices import keep_replicated, learner_mesh, replicate, share
from loopwm.training.losses import (
    Sequence,
    Terms,
    has_auxiliary,
    has_gate,
    sequence_terms,
)
from loopwm.training.replay import SequenceBatch
from loopwm.training.reward_error import FLAT

Tree = TypeVar("Tree")


class LearnerState(eqx.Module):
    """Everything that an update changes."""

    networks: Networks
    target_critic: Critic
    """Exponential moving average of the critic, which gives the targets."""
    optimiser: optax.OptState
    log_temperature: Float[Array, ""]
    """Logarithm of α, the weight of the policy's entropy, which keeps it at its target."""
    key: PRNGKeyArray
    updates: Int[Array, ""]
    curvature: Float[Array, ""] = eqx.field(default_factory=lambda: jnp.asarray(FLAT, jnp.float32))
    """A: how much more small rewards count in the reward's loss, see `reward_error`."""
    average: Networks | None = None
    """Exponential moving average of the networks, which acts in evaluation; None if not kept."""
    depth: LearnedDepth | None = None
    """The mean training depth where it is learned."""

    @property
    def acting(self) -> Networks:
        """The networks to evaluate and to keep: the average where there is one."""
        return self.networks if self.average is None else self.average


class Metrics(NamedTuple):
    """Means over the updates of one call."""

    loss: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    terms: Terms
    depth: Float[Array, ""]
    """Loops a transition of the replayed sequences."""


def make_optimiser(config: LearnerConfig) -> optax.GradientTransformation:
    """Adam behind a clip of the global norm, over one flat vector of parameters."""
    return optax.flatten(
        optax.chain(
            optax.clip_by_global_norm(config.gradient_clip),
            optax.adam(config.learning_rate),
        )
    )


def init_learner(networks: Networks, config: LearnerConfig, *, key: PRNGKeyArray) -> LearnerState:
    """State before the first update; copies, since updates give up their buffers."""
    return _initial((networks, config), key)


@functools.partial(StoredProgram, compiler_options=RUNS_ONCE)
def _initial(frozen: tuple[Networks, LearnerConfig], key: PRNGKeyArray) -> LearnerState:
    networks, config = frozen
    return LearnerState(
        networks=_copy(networks),
        target_critic=_copy(networks.critic),
        optimiser=make_optimiser(config).init(eqx.filter(networks, eqx.is_inexact_array)),
        log_temperature=jnp.log(jnp.asarray(1e-3, jnp.float32)),
        key=key,
        updates=jnp.zeros((), jnp.int32),
        average=None if config.average_rate is None else _copy(networks),
        depth=init_learned(config.depth, networks.world_model.depth),
    )


def _copy(tree: Tree) -> Tree:
    return jax.tree.map(lambda leaf: jnp.copy(leaf) if eqx.is_array(leaf) else leaf, tree)


def start_values(state: LearnerState, mean_reward: float) -> LearnerState:
    """Starts critic and target at the mean normalised reward, before the first update.

    Args:
        state: a learner that has made no update.
        mean_reward: mean reward of the data over the largest absolute one, in [−1, 1].

    Returns:
        The learner with its values started.
    """
    mean = np.asarray(mean_reward, np.float32)
    return eqx.tree_at(_critics, state, _started((), _critics(state), mean))


@functools.partial(StoredProgram, compiler_options=RUNS_ONCE)
def _started(
    _: tuple[()], critics: tuple[Critic, ...], mean_reward: Float[Array, ""]
) -> tuple[Critic, ...]:
    value = mean_reward * critics[0].scale
    return tuple(critic.started_at(value) for critic in critics)


def zoomed(state: LearnerState, zoom: int) -> LearnerState:
    """The learner with values in other units: those of a critic's `zoom`.

    What the critic has learned is not rescaled; training brings it to the new units.
    """
    # An array for each: updates give up their buffers one by one.
    changed = tuple(
        eqx.tree_at(lambda c: c.zoom, critic, jnp.asarray(np.int32(zoom)))
        for critic in _critics(state)
    )
    return eqx.tree_at(_critics, state, changed)


def _critics(state: LearnerState) -> tuple[Critic, ...]:
    averaged = () if state.average is None else (state.average.critic,)
    return (state.networks.critic, state.target_critic, *averaged)


def _draw_depths(
    state: LearnerState, config: LearnerConfig, size: int, key: PRNGKeyArray
) -> Array | None:
    """Depths of the batch's sequences before clamping, shape (size,); None for the model's own."""
    if config.depth.law is DepthLaw.FIXED:
        return None
    depth = state.networks.world_model.depth
    mean = mean_depth(config.depth, depth, state.updates, state.depth)
    return draw_counts(key, config.depth, depth, mean, size)


def _batch_loss(
    trained: Networks,
    state: LearnerState,
    batch: Sequence,
    counts: Array | None,
    config: LearnerConfig,
    key: PRNGKeyArray,
) -> tuple[Array, tuple[Terms, Array]]:
    """The loss, its mean terms, and the model's own loss of each sequence."""
    networks = resolve(trained)
    size = batch.reward.shape[0]
    rules = None
    if counts is not None:
        largest = config.depth.largest_for(networks.world_model.depth)
        depths = jnp.clip(counts, 1, largest)
        rules = jax.vmap(lambda depth: SampledDepth(depth=depth, max_depth=largest))(depths)

    deferred, key_steps = config.deferred, jax.random.fold_in(key, size)
    steps = None
    if deferred.steps is not None:
        steps = deferred.horizons(state.updates, size, key=key_steps)

    def one(sequence, rule, steps, sequence_key):
        return sequence_terms(
            networks,
            state.target_critic,
            sequence,
            rule,
            jnp.exp(state.log_temperature),
            config,
            steps,
            state.curvature,
            key=sequence_key,
        )

    each = jax.vmap(one)(batch, rules, steps, jax.random.split(key, size))
    terms = jax.tree.map(jnp.mean, each)
    loss = (
        _model_loss(terms, config)
        + config.value_weight * terms.value
        + config.imagined_value_weight * terms.imagined_value
        + config.policy_weight * terms.policy
    )
    if steps is not None:
        loss = loss + deferred.movement_weight * terms.movement
    if has_gate(networks.world_model):
        loss = loss + config.gate_weight * terms.gate
    if has_auxiliary(networks.world_model):
        loss = loss + config.auxiliary_weight * terms.auxiliary
    return loss, (terms, _model_loss(each, config))


def _model_loss(terms: Terms, config: LearnerConfig) -> Array:
    """Weighted sum of the world model's own losses, of the terms' shape."""
    return (
        config.consistency_weight * terms.consistency
        + config.reconstruction_weight * terms.reconstruction
        + config.reward_weight * terms.reward
        + config.continuation_weight * terms.continuation
    )


def _towards(slow: Tree, fast: Tree, rate: float) -> Tree:
    """An exponential moving average's step: slow + rate (fast − slow)."""
    return jax.tree.map(
        lambda s, f: s + rate * (f - s) if eqx.is_inexact_array(s) else s, slow, fast
    )


def _one_update(
    state: LearnerState, batch: Sequence, config: LearnerConfig
) -> tuple[LearnerState, Metrics]:
    key, key_loss = jax.random.split(state.key)
    key_depth, key_terms = jax.random.split(key_loss)
    counts = _draw_depths(state, config, batch.reward.shape[0], key_depth)
    (loss, (terms, losses)), gradient = eqx.filter_value_and_grad(_batch_loss, has_aux=True)(
        state.networks, state, batch, counts, config, key_terms
    )
    step, optimiser = make_optimiser(config).update(gradient, state.optimiser)
    networks = eqx.apply_updates(state.networks, step)
    learned, depth = _move_depth(state, counts, losses, config)
    average = state.average
    if average is not None and config.average_rate is not None:
        average = _towards(average, networks, config.average_rate)
    target = np.asarray(state.networks.policy.target_entropy())
    # A part's mean: the sum over many entries would move it faster than the policy can follow.
    missing = (float(target.sum()) - terms.entropy) / target.size
    new = LearnerState(
        networks=networks,
        target_critic=_towards(state.target_critic, networks.critic, config.target_rate),
        optimiser=optimiser,
        log_temperature=state.log_temperature + config.temperature_rate * missing,
        key=key,
        updates=state.updates + 1,
        curvature=state.curvature,
        average=average,
        depth=learned,
    )
    return new, Metrics(loss, optax.tree.norm(gradient), terms, depth)


def _move_depth(
    state: LearnerState, counts: Array | None, losses: Array, config: LearnerConfig
) -> tuple[LearnedDepth | None, Array]:
    """The learned mean depth after the update, and the mean depth of the batch."""
    own = state.networks.world_model.depth
    if counts is None:
        return None, jnp.asarray(own, jnp.float32)
    largest = config.depth.largest_for(own)
    depth = jnp.mean(jnp.clip(counts, 1, largest).astype(jnp.float32))
    if state.depth is None:
        return None, depth
    mean = jnp.exp(state.depth.log_mean)
    gradient = log_mean_gradient(counts, losses, mean, largest, config.depth.loop_cost)
    return move_mean(state.depth, gradient, config.depth, own), depth


@functools.partial(StoredProgram, donate="second")
def _updates(
    frozen: tuple[Normalizer, Float[Array, ""], LearnerConfig, Mesh | None],
    state: LearnerState,
    batches: tuple[Array, ...],
) -> tuple[LearnerState, Metrics]:
    normalizer, reward_scale, config, mesh = frozen
    observation, action, reward, terminated, valid = batches
    sequences = Sequence(
        observation=jax.vmap(jax.vmap(jax.vmap(normalizer)))(observation),
        action=action,
        reward=reward / reward_scale,
        terminated=terminated,
        valid=valid,
    )
    arrays, static = eqx.partition(state, eqx.is_array)

    def body(carry, batch):
        new, metrics = _one_update(eqx.combine(carry, static), batch, config)
        arrays = _in_types_of(carry, eqx.filter(new, eqx.is_array))
        return keep_replicated((arrays, metrics), mesh)

    arrays, metrics = jax.lax.scan(body, arrays, sequences)
    return eqx.combine(arrays, static), jax.tree.map(jnp.mean, metrics)


def _in_types_of(old: Tree, new: Tree) -> Tree:
    """The new arrays in the types of the old: with 64 bits switched on, constants widen them."""
    return jax.tree.map(
        lambda before, after: after.astype(before.dtype) if eqx.is_inexact_array(after) else after,
        old,
        new,
    )


def update(
    state: LearnerState,
    batch: SequenceBatch,
    normalizer: Normalizer,
    reward_scale: float,
    config: LearnerConfig,
) -> tuple[LearnerState, Metrics]:
    """Makes as many updates as the batch has, in one compiled call.

    With several devices (`config.devices`) each has its share of every batch and the whole state;
    the random numbers of a sequence are those it has on one device. Of several processes, all make
    the same calls: each one reads the batch's rows of its own devices alone, and process 0 gives
    whatever else is not on the devices yet.

    Args:
        state: the learner's state; its buffers are given up.
        batch: sequences with leading axes (updates, batch).
        normalizer: normalisation of observations.
        reward_scale: largest absolute reward seen, positive.
        config: settings.

    Returns:
        The new state and the mean metrics, the same on every device; see `on_one_device`.

    Raises:
        UsageError: the devices are not there, or cannot share the batch.
    """
    mesh = learner_mesh(config)
    inputs, arrays = _inputs(normalizer, reward_scale), _arrays(batch)
    if mesh is None:
        return _updates((*inputs, config, None), state, tuple(jnp.asarray(x) for x in arrays))
    (normal, scale), state = replicate((inputs, state), mesh)
    return _updates((normal, scale, config, mesh), state, share(arrays, mesh))


def prepare_update(
    state: LearnerState, batch: SequenceBatch, normalizer: Normalizer, config: LearnerConfig
) -> None:
    """Compiles the program of `update`, where programs are kept.

    It takes seconds, for most of which other threads of Python go on.

    Args:
        state: a state, or one with shapes (`jax.ShapeDtypeStruct`) in the places of arrays.
        batch: of the shapes of those to come; its numbers do not matter.
        normalizer: the same.
        config: settings.
    """
    inputs = _inputs(normalizer, 1.0)
    _updates.prepare((*inputs, config, None), state, tuple(map(jnp.asarray, _arrays(batch))))


def _inputs(normalizer: Normalizer, reward_scale: float) -> tuple[Normalizer, np.ndarray]:
    plain = jax.tree.map(lambda x: np.asarray(x, np.float32), normalizer)
    return plain, np.asarray(reward_scale, np.float32)


def _arrays(batch: SequenceBatch) -> tuple[np.ndarray, ...]:
    return (batch.observation, batch.action, batch.reward, batch.terminated, batch.valid)
