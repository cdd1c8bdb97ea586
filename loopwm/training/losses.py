"""Losses of one sequence, unbatched; the learner vmaps them."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from loopwm.core import SampledDepth
from loopwm.models import Critic, Networks
from loopwm.training.config import LearnerConfig


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


def td_lambda(
    reward: Float[Array, " steps"],
    terminated: Bool[Array, " steps"],
    valid: Bool[Array, " steps"],
    next_value: Float[Array, " steps"],
    discount: float,
    trace: float,
) -> Float[Array, " steps"]:
    r"""TD(λ) targets along a sequence.

    $$G_t = r_t + \gamma (1 - d_t) \big[(1-\lambda) V_{t+1} + \lambda G_{t+1}\big]$$

    where the bracket is $V_{t+1}$ alone at the last valid step. Termination $d_t$ stops the
    bootstrap; truncation does not: it ends the sequence, and $V_{t+1}$ of the final observation
    stands in.

    Args:
        reward: r_t, shape (steps,), in the units of the value.
        terminated: d_t, shape (steps,).
        valid: whether step t belongs to the episode, shape (steps,).
        next_value: V(o_{t+1}), shape (steps,).
        discount: γ.
        trace: λ.

    Returns:
        G_t, shape (steps,); meaningless where not valid.

    Source: Sutton and Barto 2018, equation 12.2 in recursive form.
    """
    follows = jnp.concatenate([valid[1:], jnp.zeros(1, bool)])

    def body(later, inputs):
        r, done, value, has_next = inputs
        bootstrap = jnp.where(has_next, (1.0 - trace) * value + trace * later, value)
        target = r + discount * jnp.where(done, 0.0, bootstrap)
        return target, target

    inputs = (reward, terminated, next_value, follows)
    return jax.lax.scan(body, jnp.zeros(()), inputs, reverse=True)[1]


class Terms(eqx.Module):
    """Loss terms and telemetry of one sequence or of a batch's mean."""

    consistency: Float[Array, ""]
    reconstruction: Float[Array, ""]
    reward: Float[Array, ""]
    continuation: Float[Array, ""]
    value: Float[Array, ""]
    policy: Float[Array, ""]
    entropy: Float[Array, ""]
    residual: Float[Array, ""]
    mean_value: Float[Array, ""]


def sequence_terms(
    networks: Networks,
    target_critic: Critic,
    sequence: Sequence,
    depth: Int[Array, ""] | None,
    value_range: Float[Array, ""],
    config: LearnerConfig,
    max_depth: int,
    *,
    key: PRNGKeyArray,
) -> Terms:
    """All losses of one sequence.

    Args:
        networks: what is trained, constrained weights resolved.
        target_critic: slowly moving copy of the critic.
        sequence: normalised steps.
        depth: loops of this sequence, or None for the model's own depth.
        value_range: running range of values, which scales the policy loss, scalar.
        config: weights and constants.
        max_depth: largest sampled depth.
        key: PRNG key.

    Returns:
        Unweighted terms, each a scalar.
    """
    key_target, key_policy = jax.random.split(key)
    model = networks.world_model
    rule = None if depth is None else SampledDepth(depth, max_depth)
    encoded = jax.vmap(model.encode)(sequence.observation)
    fixed = jax.lax.stop_gradient(encoded)

    def roll(z, u):
        solution = model.transition(z, u, rule)
        return solution.value, (z, solution.value, solution.stats.residual)

    _, (before, after, residual) = jax.lax.scan(roll, encoded[0], sequence.action)
    weight = sequence.valid * config.rollout_decay ** jnp.arange(len(sequence.valid))
    weight = weight / jnp.sum(config.rollout_decay ** jnp.arange(len(sequence.valid)))

    decoded = jax.vmap(model.decode)(jnp.concatenate([encoded[:1], after]))
    pixel = jnp.mean((decoded - sequence.observation) ** 2, axis=-1)
    outcome = jax.vmap(model.outcome)(before, sequence.action, after)
    goes_on = 1.0 - sequence.terminated.astype(jnp.float32)
    logit = outcome.continuation_logit
    continuation = jax.nn.softplus(logit) - goes_on * logit

    targets = _value_targets(networks, target_critic, sequence, fixed[1:], config, key_target)
    logits = jax.vmap(networks.critic.logits)(before, sequence.action)
    labels = jax.vmap(networks.critic.support.target)(targets)
    cross = -jnp.mean(jnp.sum(labels[:, None] * jax.nn.log_softmax(logits), -1), -1)
    policy, entropy, values = _policy_terms(networks, fixed[:-1], value_range, config, key_policy)
    count = jnp.maximum(jnp.sum(sequence.valid), 1)
    return Terms(
        consistency=jnp.sum(weight * jnp.mean((after - fixed[1:]) ** 2, -1)),
        reconstruction=0.5 * pixel[0] + jnp.sum(weight * pixel[1:]),
        reward=jnp.sum(weight * (outcome.reward - sequence.reward) ** 2),
        continuation=jnp.sum(weight * continuation),
        value=jnp.sum(weight * cross),
        policy=jnp.sum(policy * sequence.valid) / count,
        entropy=jnp.sum(entropy * sequence.valid) / count,
        residual=jnp.sum(residual * sequence.valid) / count,
        mean_value=jnp.sum(values * sequence.valid) / count,
    )


def _value_targets(
    networks: Networks,
    target_critic: Critic,
    sequence: Sequence,
    next_z: Float[Array, "steps latent"],
    config: LearnerConfig,
    key: PRNGKeyArray,
) -> Float[Array, " steps"]:
    """TD(λ) targets in normalised units from the smaller of both target critics."""
    bootstrap = eqx.tree_at(lambda n: n.critic, networks, target_critic)
    keys = jax.random.split(key, len(next_z))
    value = jax.vmap(lambda z, k: jnp.min(bootstrap.value(z, key=k)))(next_z, keys)
    targets = td_lambda(
        (1.0 - config.discount) * sequence.reward,
        sequence.terminated,
        sequence.valid,
        value,
        config.discount,
        config.trace,
    )
    return jax.lax.stop_gradient(targets)


def _policy_terms(
    networks: Networks,
    z: Float[Array, "steps latent"],
    value_range: Float[Array, ""],
    config: LearnerConfig,
    key: PRNGKeyArray,
) -> tuple[Array, Array, Array]:
    """Policy loss, entropy and value at each step; the critic's parameters are held fixed."""
    critic = jax.lax.stop_gradient(networks.critic)

    def one(state, step_key):
        actions, weights, entropy = networks.policy.weighted_actions(state, key=step_key)
        q = jax.vmap(lambda u: jnp.mean(critic.values(state, u)))(actions)
        value = weights @ q
        return -value / value_range - config.entropy_weight * entropy, entropy, value

    return jax.vmap(one)(z, jax.random.split(key, len(z)))
