"""The learner: one jitted call makes several updates."""

import functools
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from loopwm.core import poisson_depth
from loopwm.models import Critic, Networks, Normalizer
from loopwm.nn import resolve
from loopwm.training.config import LearnerConfig
from loopwm.training.losses import Sequence, Terms, sequence_terms
from loopwm.training.replay import SequenceBatch


class LearnerState(eqx.Module):
    """Everything that an update changes."""

    networks: Networks
    target_critic: Critic
    """Exponential moving average of the critic."""
    optimiser: optax.OptState
    value_range: Float[Array, ""]
    """Running range (5th to 95th percentile) of values, which scales the policy loss."""
    key: PRNGKeyArray
    updates: Int[Array, ""]


class Metrics(NamedTuple):
    """Means over the updates of one call."""

    loss: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    terms: Terms


def make_optimiser(config: LearnerConfig) -> optax.GradientTransformation:
    """Adam behind a clip of the global norm, over one flat vector of parameters."""
    return optax.flatten(
        optax.chain(
            optax.clip_by_global_norm(config.gradient_clip),
            optax.adam(config.learning_rate),
        )
    )


def init_learner(
    networks: Networks, config: LearnerConfig, *, key: PRNGKeyArray
) -> LearnerState:
    """State before the first update."""
    trainable = eqx.filter(networks, eqx.is_inexact_array)
    return LearnerState(
        networks=networks,
        target_critic=jax.tree.map(
            lambda leaf: jnp.array(leaf) if eqx.is_array(leaf) else leaf, networks.critic
        ),
        optimiser=make_optimiser(config).init(trainable),
        value_range=jnp.ones(()),
        key=key,
        updates=jnp.zeros((), jnp.int32),
    )


def start_values(state: LearnerState, mean_reward: float) -> LearnerState:
    """Starts critic and target at the mean normalised reward, before the first update.

    Args:
        state: a learner that has made no update.
        mean_reward: mean reward of the data over the largest absolute one, in [−1, 1].

    Returns:
        The learner with its values started.
    """
    value = jnp.asarray(mean_reward, jnp.float32)
    return eqx.tree_at(
        lambda s: (s.networks.critic, s.target_critic),
        state,
        (state.networks.critic.started_at(value), state.target_critic.started_at(value)),
    )


def _batch_loss(
    trainable: Networks,
    static: Networks,
    state: LearnerState,
    batch: Sequence,
    config: LearnerConfig,
    key: PRNGKeyArray,
) -> tuple[Array, Terms]:
    networks = resolve(eqx.combine(trainable, static))
    size = batch.reward.shape[0]
    key_depth, key_terms = jax.random.split(key)
    mean_depth = getattr(networks.world_model, "depth", 1)
    max_depth = 3 * mean_depth
    depth = (
        poisson_depth(key_depth, mean_depth, max_depth, (size,)) if config.poisson_depth else None
    )

    def one(sequence, sequence_depth, sequence_key):
        return sequence_terms(
            networks,
            state.target_critic,
            sequence,
            sequence_depth,
            state.value_range,
            config,
            max_depth,
            key=sequence_key,
        )

    terms = jax.vmap(one)(batch, depth, jax.random.split(key_terms, size))
    terms = jax.tree.map(jnp.mean, terms)
    loss = (
        config.consistency_weight * terms.consistency
        + config.reconstruction_weight * terms.reconstruction
        + config.reward_weight * terms.reward
        + config.continuation_weight * terms.continuation
        + config.value_weight * terms.value
        + config.policy_weight * terms.policy
    )
    return loss, terms


def _one_update(
    state: LearnerState, batch: Sequence, config: LearnerConfig
) -> tuple[LearnerState, Metrics]:
    key, key_loss, key_range = jax.random.split(state.key, 3)
    trainable, static = eqx.partition(state.networks, eqx.is_inexact_array)
    (loss, terms), gradient = jax.value_and_grad(_batch_loss, has_aux=True)(
        trainable, static, state, batch, config, key_loss
    )
    step, optimiser = make_optimiser(config).update(gradient, state.optimiser, trainable)
    networks = eqx.combine(optax.apply_updates(trainable, step), static)
    rate = config.target_rate
    target = jax.tree.map(
        lambda slow, fast: (1.0 - rate) * slow + rate * fast if eqx.is_inexact_array(slow) else slow,
        state.target_critic,
        networks.critic,
    )
    new = LearnerState(
        networks=networks,
        target_critic=target,
        optimiser=optimiser,
        value_range=state.value_range,
        key=key,
        updates=state.updates + 1,
    )
    return new, Metrics(loss, optax.global_norm(gradient), terms)


def _value_range(state: LearnerState, batch: Sequence) -> Float[Array, ""]:
    """Range of values of real first states, floored; the scale of the policy loss."""
    networks = state.networks

    def value(observation, u):
        return jnp.mean(networks.critic.values(networks.world_model.encode(observation), u))

    values = jax.vmap(value)(batch.observation[:, 0], batch.action[:, 0])
    low, high = jnp.percentile(values, jnp.asarray([5.0, 95.0]))
    return jnp.maximum(high - low, 0.02)


@functools.partial(eqx.filter_jit, donate="all-except-first")
def _updates(
    frozen: tuple[Normalizer, Float[Array, ""], LearnerConfig],
    state: LearnerState,
    batches: tuple[Array, ...],
) -> tuple[LearnerState, Metrics]:
    normalizer, reward_scale, config = frozen
    observation, action, reward, terminated, valid = batches
    sequences = Sequence(
        observation=jax.vmap(jax.vmap(jax.vmap(normalizer)))(observation),
        action=action,
        reward=reward / reward_scale,
        terminated=terminated,
        valid=valid,
    )
    first = jax.tree.map(lambda x: x[0], sequences)
    latest = 0.9 * state.value_range + 0.1 * _value_range(state, first)
    state = eqx.tree_at(lambda s: s.value_range, state, latest)
    arrays, static = eqx.partition(state, eqx.is_array)

    def body(carry, batch):
        new, metrics = _one_update(eqx.combine(carry, static), batch, config)
        return eqx.filter(new, eqx.is_array), metrics

    arrays, metrics = jax.lax.scan(body, arrays, sequences)
    return eqx.combine(arrays, static), jax.tree.map(jnp.mean, metrics)


def update(
    state: LearnerState,
    batch: SequenceBatch,
    normalizer: Normalizer,
    reward_scale: float,
    config: LearnerConfig,
) -> tuple[LearnerState, Metrics]:
    """Makes as many updates as the batch has, in one compiled call.

    Args:
        state: the learner's state; its buffers are given up.
        batch: sequences with leading axes (updates, batch).
        normalizer: normalisation of observations.
        reward_scale: largest absolute reward seen, positive.
        config: settings.

    Returns:
        The new state and the mean metrics.
    """
    arrays = (batch.observation, batch.action, batch.reward, batch.terminated, batch.valid)
    frozen = (
        jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), normalizer),
        jnp.asarray(reward_scale, jnp.float32),
        config,
    )
    return _updates(frozen, state, tuple(jnp.asarray(x) for x in arrays))
