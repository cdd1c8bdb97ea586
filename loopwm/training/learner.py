"""The learner: one jitted call makes several updates."""

import functools
from typing import NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from loopwm.core import SampledDepth, poisson_depth
from loopwm.models import Critic, Networks, Normalizer
from loopwm.nn import resolve
from loopwm.training.config import LearnerConfig
from loopwm.training.losses import Sequence, Terms, sequence_terms
from loopwm.training.replay import SequenceBatch

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


def init_learner(networks: Networks, config: LearnerConfig, *, key: PRNGKeyArray) -> LearnerState:
    """State before the first update; copies, since updates give up their buffers."""
    return LearnerState(
        networks=_copy(networks),
        target_critic=_copy(networks.critic),
        optimiser=make_optimiser(config).init(eqx.filter(networks, eqx.is_inexact_array)),
        log_temperature=jnp.log(jnp.asarray(1e-3)),
        key=key,
        updates=jnp.zeros((), jnp.int32),
    )


def _copy(tree: Tree) -> Tree:
    return jax.tree.map(lambda leaf: jnp.array(leaf) if eqx.is_array(leaf) else leaf, tree)


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
    trained: Networks,
    state: LearnerState,
    batch: Sequence,
    config: LearnerConfig,
    key: PRNGKeyArray,
) -> tuple[Array, Terms]:
    networks = resolve(trained)
    size = batch.reward.shape[0]
    key_depth, key_terms = jax.random.split(key)
    mean_depth = networks.world_model.depth
    rules = None
    if config.poisson_depth:
        largest = 3 * mean_depth
        drawn = poisson_depth(key_depth, float(mean_depth), largest, (size,))
        rules = jax.vmap(lambda depth: SampledDepth(depth=depth, max_depth=largest))(drawn)

    deferred = config.deferred
    steps = None if deferred.steps is None else deferred.horizon(state.updates)

    def one(sequence, rule, sequence_key):
        return sequence_terms(
            networks,
            state.target_critic,
            sequence,
            rule,
            jnp.exp(state.log_temperature),
            config,
            steps,
            key=sequence_key,
        )

    terms = jax.vmap(one)(batch, rules, jax.random.split(key_terms, size))
    terms = jax.tree.map(jnp.mean, terms)
    loss = (
        config.consistency_weight * terms.consistency
        + config.reconstruction_weight * terms.reconstruction
        + config.reward_weight * terms.reward
        + config.continuation_weight * terms.continuation
        + config.value_weight * terms.value
        + config.imagined_value_weight * terms.imagined_value
        + config.policy_weight * terms.policy
    )
    if steps is not None:
        loss = loss + deferred.movement_weight * terms.movement
    return loss, terms


def _one_update(
    state: LearnerState, batch: Sequence, config: LearnerConfig
) -> tuple[LearnerState, Metrics]:
    key, key_loss = jax.random.split(state.key)
    (loss, terms), gradient = eqx.filter_value_and_grad(_batch_loss, has_aux=True)(
        state.networks, state, batch, config, key_loss
    )
    step, optimiser = make_optimiser(config).update(gradient, state.optimiser)
    networks = eqx.apply_updates(state.networks, step)
    rate = config.target_rate
    target = jax.tree.map(
        lambda slow, fast: slow + rate * (fast - slow) if eqx.is_inexact_array(slow) else slow,
        state.target_critic,
        networks.critic,
    )
    missing = state.networks.policy.target_entropy() - terms.entropy
    new = LearnerState(
        networks=networks,
        target_critic=target,
        optimiser=optimiser,
        log_temperature=state.log_temperature + config.temperature_rate * missing,
        key=key,
        updates=state.updates + 1,
    )
    return new, Metrics(loss, optax.tree.norm(gradient), terms)


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
