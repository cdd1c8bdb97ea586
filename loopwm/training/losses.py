"""Losses of one sequence, unbatched; the learner vmaps them."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from loopwm.core import AbstractDepthRule, constant, halting_loss
from loopwm.models import (
    AbstractWorldModel,
    AuxiliaryLoss,
    Critic,
    EarlyExits,
    Networks,
    present,
)
from loopwm.training.config import LearnerConfig
from loopwm.training.deferred import deferred_terms
from loopwm.training.returns import td_lambda
from loopwm.training.reward_error import FLAT, reward_error


class Sequence(NamedTuple):
    """H consecutive steps of one episode, normalised."""

    observation: Float[Array, "steps_plus_one observation"]
    """Normalised o_t … o_{t+H}."""
    action: Float[Array, "steps action"]
    """Encoded u_t … u_{t+H−1}."""
    reward: Float[Array, " steps"]
    """Rewards over the largest absolute reward."""
    terminated: Bool[Array, " steps"]
    """Whether the task ended; truncation leaves it False."""
    valid: Bool[Array, " steps"]
    """Whether the step belongs to the episode."""


class Imagination(NamedTuple):
    """K imagined steps under the policy, without gradient."""

    z: Float[Array, "horizon_plus_one latent"]
    """z_0 … z_K."""
    action: Float[Array, "horizon action"]
    """u_0 … u_{K−1}, drawn from the policy."""
    reward: Float[Array, " horizon"]
    """Predicted rewards r_0 … r_{K−1} over the largest absolute reward."""
    continuation: Float[Array, " horizon"]
    """Predicted probability that the task goes on after the step."""
    weight: Float[Array, " horizon"]
    """Probability that the task has not ended before the step; 1 at k = 0."""


class Terms(eqx.Module):
    """Loss terms and telemetry of one sequence or of a batch's mean."""

    consistency: Float[Array, ""]
    reconstruction: Float[Array, ""]
    reward: Float[Array, ""]
    continuation: Float[Array, ""]
    value: Float[Array, ""]
    imagined_value: Float[Array, ""]
    policy: Float[Array, ""]
    entropy: Float[Array, ""]
    residual: Float[Array, ""]
    mean_value: Float[Array, ""]
    movement: Float[Array, ""]
    """Length of the latent path beyond its limit; 0 unless decoding is deferred."""
    gate: Float[Array, ""]
    """Loss of the halting gate; 0 for a model without one."""
    auxiliary: Float[Array, ""]
    """The world model's own loss term; 0 for a model without one."""


def sequence_terms(
    networks: Networks,
    target_critic: Critic,
    sequence: Sequence,
    rule: AbstractDepthRule | None,
    temperature: Float[Array, ""],
    config: LearnerConfig,
    steps: Int[Array, ""] | None = None,
    curvature: Float[Array, ""] | float = FLAT,
    *,
    key: PRNGKeyArray,
) -> Terms:
    """All losses of one sequence.

    Args:
        networks: what is trained, constrained weights resolved.
        target_critic: slowly moving copy of the critic.
        sequence: normalised steps.
        rule: loops of this sequence's transitions, or None for the model's own depth.
        temperature: weight of the policy's entropy, scalar.
        config: weights and constants.
        steps: K of deferred decoding, scalar; each step is decoded when left out.
        curvature: A of the reward's loss, scalar, see `reward_error`.
        key: PRNG key.

    Returns:
        Unweighted terms, each a scalar.
    """
    key_imagine, key_target, key_policy = jax.random.split(key, 3)
    model, valid = networks.world_model, sequence.valid
    encoded = jax.vmap(model.encode)(sequence.observation)
    fixed = jax.lax.stop_gradient(encoded)

    def roll(z, u):
        solution = model.transition(z, u, rule)
        return solution.value, (z, solution.value, solution.stats.residual)

    _, (before, after, residual) = jax.lax.scan(roll, encoded[0], sequence.action)
    weight = _rollout_weight(sequence, config)
    reconstruction, consistency, movement = _observation_terms(
        model, sequence, encoded, after, config, steps
    )
    outcome = jax.vmap(model.outcome)(before, sequence.action, after)
    goes_on = 1.0 - sequence.terminated.astype(jnp.float32)
    logit = outcome.continuation_logit

    imagined = imagine(networks, fixed[1], config, key=key_imagine)
    targets = value_targets(networks, target_critic, sequence, fixed, imagined, config, key_target)
    states = jnp.concatenate([before, imagined.z[:-1]])
    actions = jnp.concatenate([sequence.action, imagined.action])
    cross = _value_loss(networks.critic, states, actions, targets)
    cross, cross_imagined = cross[: len(valid)], cross[len(valid) :]
    policy, entropy, values = _policy_terms(networks, fixed[:-1], temperature, key_policy)
    count = jnp.maximum(jnp.sum(valid), 1)
    # Nothing follows a terminal observation: what was imagined from one is no experience.
    imagined_weight = imagined.weight * goes_on[0]
    return Terms(
        consistency=consistency,
        reconstruction=reconstruction,
        reward=jnp.sum(weight * reward_error(outcome.reward, sequence.reward, curvature)),
        continuation=jnp.sum(weight * (jax.nn.softplus(logit) - goes_on * logit)),
        value=jnp.sum(weight * cross),
        imagined_value=jnp.mean(imagined_weight * cross_imagined),
        policy=jnp.sum(policy * valid) / count,
        entropy=jnp.sum(entropy * valid) / count,
        residual=jnp.sum(residual * valid) / count,
        mean_value=jnp.sum(values * valid) / count,
        movement=movement,
        gate=jnp.sum(_gate_loss(model, encoded[:-1], sequence, fixed[1:], config) * valid) / count,
        auxiliary=_auxiliary_loss(model, sequence, key),
    )


def _observation_terms(
    model: AbstractWorldModel,
    sequence: Sequence,
    encoded: Float[Array, "steps_plus_one latent"],
    after: Float[Array, "steps latent"],
    config: LearnerConfig,
    steps: Int[Array, ""] | None,
) -> tuple[Array, Array, Array]:
    """Reconstruction, consistency and movement of a rollout, each step decoded or one of them."""
    if steps is not None:
        limit = config.deferred.movement_limit
        observation, valid = sequence.observation, sequence.valid
        return deferred_terms(model, observation, encoded, after, valid, steps, limit)
    weight = _rollout_weight(sequence, config)
    decoded = jax.vmap(model.decode)(jnp.concatenate([encoded[:1], after]))
    error = jnp.mean((decoded - sequence.observation) ** 2, axis=-1)
    apart = present(model, after) - present(model, jax.lax.stop_gradient(encoded[1:]))
    consistency = jnp.sum(weight * jnp.mean(apart**2, -1))
    return 0.5 * error[0] + jnp.sum(weight * error[1:]), consistency, jnp.zeros(())


def _rollout_weight(sequence: Sequence, config: LearnerConfig) -> Float[Array, " steps"]:
    """Weights of the steps of a rollout: decay^k over the sum of all, 0 after the end."""
    decay = config.rollout_decay ** jnp.arange(len(sequence.valid))
    return sequence.valid * decay / jnp.sum(decay)


def has_auxiliary(model: AbstractWorldModel) -> bool:
    """Whether the model brings a loss term of its own."""
    return isinstance(model, AuxiliaryLoss)


def _auxiliary_loss(
    model: AbstractWorldModel, sequence: Sequence, key: PRNGKeyArray
) -> Float[Array, ""]:
    """The model's own term, scalar; its key is none of the three that the other terms use."""
    if not isinstance(model, AuxiliaryLoss):
        return jnp.zeros(())
    own = jax.random.fold_in(key, 3)
    return model.auxiliary(sequence.observation, sequence.action, sequence.valid, key=own)


def has_gate(model: AbstractWorldModel) -> bool:
    """Whether the model carries a halting gate, which is trained with it."""
    return isinstance(model, EarlyExits) and model.gated


def _gate_loss(
    model: AbstractWorldModel,
    z: Float[Array, "steps latent"],
    sequence: Sequence,
    target: Float[Array, "steps latent"],
    config: LearnerConfig,
) -> Float[Array, " steps"]:
    """Loss of the halting gate at each step: what reading out after each loop would cost.

    It trains gate and model together: every loop is read out with the weight of exiting there.
    """
    if not isinstance(model, EarlyExits) or not model.gated:
        return jnp.zeros(len(z))

    def one(state, u, wanted, observation):
        states, logits = model.exits(state, u)
        consistency = jnp.mean((states - wanted[None]) ** 2, axis=-1)
        decoded = jax.vmap(model.decode)(states)
        reconstruction = jnp.mean((decoded - observation[None]) ** 2, axis=-1)
        losses = (
            config.consistency_weight * consistency + config.reconstruction_weight * reconstruction
        )
        return halting_loss(logits, losses, config.gate_entropy)

    return jax.vmap(one)(z, sequence.action, target, sequence.observation[1:])


def imagine(
    networks: Networks,
    z: Float[Array, " latent"],
    config: LearnerConfig,
    *,
    key: PRNGKeyArray,
) -> Imagination:
    """Rolls the policy through the model for K steps.

    Args:
        networks: what is trained, constrained weights resolved.
        z: first latent state z_0, shape (latent,).
        config: the horizon K.
        key: PRNG key.

    Returns:
        States, actions and outcomes, all without gradient.
    """
    networks = constant(networks)
    model = networks.world_model

    def body(state, step_key):
        u = networks.policy.sample(state, key=step_key)
        following = model.transition(state, u).value
        outcome = model.outcome(state, u, following)
        return following, (following, u, outcome.reward, outcome.continuation)

    keys = jax.random.split(key, config.imagination)
    _, (states, actions, reward, continuation) = jax.lax.scan(body, z, keys)
    weight = jnp.concatenate([jnp.ones(1), jnp.cumprod(continuation)[:-1]])
    imagined = Imagination(
        z=jnp.concatenate([z[None], states]),
        action=actions,
        reward=reward,
        continuation=continuation,
        weight=weight,
    )
    return jax.lax.stop_gradient(imagined)


def value_targets(
    networks: Networks,
    target_critic: Critic,
    sequence: Sequence,
    z: Float[Array, "steps_plus_one latent"],
    imagined: Imagination,
    config: LearnerConfig,
    key: PRNGKeyArray,
) -> Float[Array, " steps_and_horizon"]:
    r"""Targets of the critic, in normalised units: of H replayed steps, then of K imagined ones.

    Both are TD(λ) (see `td_lambda`) with $V = E_\pi[Q]$, the smaller of two target critics. An
    imagined step ends the task with the probability that the model gives it. The first replayed
    step bootstraps from the imagined return of its next state instead: no action of older policies
    is in it.

    Args:
        networks: what is trained, constrained weights resolved.
        target_critic: slowly moving copy of the critic.
        sequence: replayed steps.
        z: latent states of its observations, shape (H + 1, latent), without gradient.
        imagined: K steps from z[1].
        config: discount and both λ.
        key: PRNG key.

    Returns:
        Targets, shape (H + K,), without gradient.

    Sources: Feinberg et al. 2018, model-based value expansion (arXiv 1803.00101); Hafner et al.
        2023, DreamerV3 (arXiv 2301.04104), equation 7.
    """
    bootstrap = eqx.tree_at(lambda n: n.critic, networks, target_critic)
    following = jnp.concatenate([z[1:], imagined.z[1:]])
    keys = jax.random.split(key, len(following))
    value = jax.vmap(lambda state, k: _smaller(bootstrap.value(state, key=k), k))(following, keys)
    steps, discount = len(sequence.valid), config.discount
    unit = (1.0 - discount) * target_critic.scale
    going = jnp.ones(len(imagined.continuation), bool)
    dreamt = td_lambda(
        unit * imagined.reward,
        1.0 - imagined.continuation,
        going,
        value[steps:],
        discount,
        config.imagined_trace,
    )
    replayed = td_lambda(
        unit * sequence.reward,
        sequence.terminated,
        sequence.valid,
        value[:steps],
        discount,
        config.trace,
    )
    goes_on = 1.0 - sequence.terminated[0].astype(jnp.float32)
    first = unit * sequence.reward[0] + discount * goes_on * dreamt[0]
    return jax.lax.stop_gradient(jnp.concatenate([replayed.at[0].set(first), dreamt]))


def _smaller(values: Float[Array, " members"], key: PRNGKeyArray) -> Float[Array, ""]:
    """The smaller of two members' values, drawn at random where there are more; scalar."""
    if len(values) > 2:
        drawn = jax.random.choice(jax.random.fold_in(key, 1), len(values), (2,), replace=False)
        values = values[drawn]
    return jnp.min(values)


def _value_loss(
    critic: Critic,
    z: Float[Array, "steps latent"],
    u: Float[Array, "steps action"],
    target: Float[Array, " steps"],
) -> Float[Array, " steps"]:
    """Cross-entropy of each critic with the target's distribution, mean over critics."""
    logits = jax.vmap(critic.logits)(z, u)
    labels = jax.vmap(critic.support.target)(target)
    return -jnp.mean(jnp.sum(labels[:, None] * jax.nn.log_softmax(logits), -1), -1)


def _policy_terms(
    networks: Networks,
    z: Float[Array, "steps latent"],
    temperature: Float[Array, ""],
    key: PRNGKeyArray,
) -> tuple[Array, Array, Array]:
    """Policy loss −E[Q] − αH, entropy H and value E[Q] at each step; the critic is held fixed."""
    critic = constant(networks.critic)

    def one(state, step_key):
        actions, weights, entropy = networks.policy.weighted_actions(state, key=step_key)
        value = weights @ jax.vmap(lambda u: jnp.mean(critic.values(state, u)))(actions)
        return -value - temperature * entropy, entropy, value

    return jax.vmap(one)(z, jax.random.split(key, len(z)))
