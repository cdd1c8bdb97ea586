"""What the outer map z → z' does: visited states, imagined rollouts, spectra, exponents."""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from loopwm.actions import ActionLayout
from loopwm.agents import PlanningAgent, PolicyAgent
from loopwm.envs import EnvSource, Spaces
from loopwm.evaluation.episodes import run_episodes
from loopwm.evaluation.study import OuterStudy
from loopwm.evaluation.study_config import StudyConfig
from loopwm.models import AbstractPolicy, AbstractWorldModel, categories, uniform_actions
from loopwm.stability import TransitionCertificate, norms
from loopwm.stability.lyapunov import lyapunov_exponents
from loopwm.stability.norms import Norm
from loopwm.stability.spectra import eigenvalues

POLICY, RANDOM, ADVERSARIAL = "policy", "random", "adversarial"
"""How the actions of a rollout are chosen: the policy's samples, at random, or the sequence among
many that makes ‖z‖ largest at its end."""

_NORMS = {Norm.TWO: norms.two, Norm.INFINITY: norms.infinity, Norm.TOKENS: norms.tokens}


@dataclasses.dataclass(frozen=True)
class Visits:
    """Latent states that an agent meets, and the actions it takes there."""

    z: Float[Array, "visits latent"]
    """Encoded observations, shape (visits, latent)."""
    u: Float[Array, "visits action"]
    """Encoded actions, shape (visits, action)."""


def visit(
    agent: PlanningAgent | PolicyAgent,
    source: EnvSource,
    spaces: Spaces,
    *,
    steps: int,
    seed: int,
) -> Visits:
    """Plays an episode, or its beginning.

    Args:
        agent: the agent.
        source: the environment; a new instance is made.
        spaces: its codecs.
        steps: env steps at most, at least 1.
        seed: seed of environment and agent.

    Returns:
        The latent states met and the actions taken there.

    Raises:
        RunFailure: the environment failed, or a decision became NaN.
    """
    played = run_episodes(
        agent, source, spaces, episodes=1, seed=seed, max_steps=steps, record=steps
    ).episode
    assert played is not None
    observed = jnp.asarray(played.observation[:-1])
    z = _encoded(agent.world_model, agent.normalizer, observed)
    return Visits(z=z, u=jnp.asarray(played.action))


@eqx.filter_jit
def _encoded(model: AbstractWorldModel, normalizer: Callable, observations: Array) -> Array:
    return jax.vmap(lambda o: model.encode(normalizer(o)))(observations)


def study_outer(
    model: AbstractWorldModel,
    policy: AbstractPolicy,
    visits: Visits,
    certificate: TransitionCertificate | None,
    config: StudyConfig,
    *,
    actions: ActionLayout,
    key: PRNGKeyArray,
) -> OuterStudy:
    """Rolls the model out and measures its Jacobian.

    Args:
        model: the world model, its constrained weights resolved.
        policy: the agent's policy prior.
        visits: states to start from.
        certificate: the proven ball, whose norm is used.
        config: sizes of the study.
        actions: what kind of vector an action is.
        key: PRNG key.

    Returns:
        What was observed.
    """
    key_rollouts, key_spectra, key_exponents = jax.random.split(key, 3)
    norm = Norm.TWO if certificate is None else certificate.norm
    rows = spread(len(visits.z), config.rollouts)
    starts = visits.z[jnp.resize(rows, (config.rollouts,))]
    sizes, played = {}, {}
    for number, how in enumerate((POLICY, RANDOM, ADVERSARIAL)):
        keys = jax.random.split(jax.random.fold_in(key_rollouts, number), config.rollouts)
        states, taken = _rollouts(model, policy, starts, keys, how, actions, config)
        with jax.enable_x64(True):
            double = jnp.asarray(np.asarray(states, np.float64))
            sizes[how] = np.asarray(jax.vmap(jax.vmap(_NORMS[norm]))(double))
        played[how] = taken
    exponents = {
        how: _exponent(model, starts[0], played[how][0], config, key=key_exponents)
        for how in (POLICY, RANDOM)
    }
    rows = spread(len(visits.z), config.visited)
    spectra = [
        eigenvalues(
            Transition(model, visits.u[row]),
            visits.z[row],
            k=min(config.eigenvalues, model.latent),
            key=key_spectra,
        ).values
        for row in rows
    ]
    return OuterStudy(sizes, norm, np.stack(spectra), exponents)


class Transition(eqx.Module):
    """The outer map z, u → z'; with an action of its own, the map z → z' under it."""

    model: AbstractWorldModel
    u: Float[Array, " action"] | None = None

    def __call__(self, z: Float[Array, " latent"], *u: Array) -> Float[Array, " latent"]:
        """z' of shape (latent,) from z of shape (latent,) and u, where it has none."""
        (action,) = u if self.u is None else (self.u,)
        return self.model.transition(z, action.astype(z.dtype)).value


def _exponent(
    model: AbstractWorldModel, z: Array, actions: Array, config: StudyConfig, *, key: PRNGKeyArray
) -> float:
    """Largest Lyapunov exponent along a rollout, its first fifth left out."""
    steps = min(config.exponent_steps + config.exponent_steps // 4, len(actions))
    warmup = steps // 5
    found = lyapunov_exponents(
        Transition(model), z, steps=steps - warmup, inputs=actions[:steps], warmup=warmup, key=key
    )
    return float(found.exponents[0])


def spread(count: int, wanted: int) -> Array:
    """At most `wanted` indices, evenly over `count` of them."""
    return jnp.asarray(np.unique(np.linspace(0, count - 1, min(count, wanted)).astype(int)))


@eqx.filter_jit
def _rollouts(
    model: AbstractWorldModel,
    policy: AbstractPolicy,
    starts: Array,
    keys: Array,
    how: str,
    layout: ActionLayout,
    config: StudyConfig,
) -> tuple[Array, Array]:
    """States of shape (rollouts, horizon + 1, latent) and actions (rollouts, horizon, action)."""
    size = policy.action_size

    def step(z, key):
        u = policy.sample(z, key=key)
        if how == RANDOM:
            u = uniform_actions(layout, 1, key=key)[0]
        after = model.transition(z, u).value
        return after, (after, u)

    def segment(z, key):
        plans = _plans(model, z, layout, config, key=key)
        ends = jax.vmap(lambda plan: norms.two(_played(model, z, plan)[-1]))(plans)
        chosen = plans[jnp.argmax(ends)]
        states = _played(model, z, chosen)
        return states[-1], (states, chosen)

    def one(z, key):
        if how == ADVERSARIAL:
            count = -(-config.horizon // config.lookahead)
            _, (later, actions) = jax.lax.scan(segment, z, jax.random.split(key, count))
            later, actions = later.reshape(-1, z.size), actions.reshape(-1, size)
        else:
            _, (later, actions) = jax.lax.scan(step, z, jax.random.split(key, config.horizon))
        states = jnp.concatenate([z[None], later[: config.horizon]])
        return states, actions[: config.horizon]

    return jax.vmap(one)(starts, keys)


def _played(model: AbstractWorldModel, z: Array, plan: Array) -> Array:
    """States after each action of a plan, shape (lookahead, latent)."""

    def step(state, u):
        after = model.transition(state, u).value
        return after, after

    return jax.lax.scan(step, z, plan)[1]


def _plans(
    model: AbstractWorldModel,
    z: Array,
    layout: ActionLayout,
    config: StudyConfig,
    *,
    key: PRNGKeyArray,
) -> Array:
    """Action sequences that the adversary chooses from, shape (plans, lookahead, action).

    Random ones, and for each of them what the gradient of ‖z‖ at its end points to: in every step
    the corner of the box, or the one category of each group, that promises most. And each category
    held, together with random ones of the other groups.
    """
    shape = (config.candidates, config.lookahead, layout.size)
    drawn = uniform_actions(layout, shape[0] * shape[1], key=key).reshape(shape)
    slopes = jax.vmap(jax.grad(lambda plan: norms.two(_played(model, z, plan)[-1])))(drawn)
    if layout.groups is None:
        return jnp.concatenate([drawn, jnp.sign(slopes)])
    alone = categories.most_likely(2.0 * jnp.eye(layout.size) + drawn[0, :1], layout.groups)
    held = jnp.broadcast_to(alone[:, None], (layout.size, *shape[1:]))
    steepest = categories.most_likely(slopes, layout.groups)
    return jnp.concatenate([drawn, steepest, held])
