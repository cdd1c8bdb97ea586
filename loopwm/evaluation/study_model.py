"""The stability study of a run's world model."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from loopwm.actions import ActionLayout
from loopwm.agents import PlanningAgent, PolicyAgent
from loopwm.core import AbstractUpdate, FlatGridCore, LoopedCore
from loopwm.errors import UsageError
from loopwm.evaluation.guarantees import certificate_of, statements
from loopwm.evaluation.rollouts import Visits, spread, study_outer
from loopwm.evaluation.study import Study
from loopwm.evaluation.study_config import StudyConfig
from loopwm.evaluation.study_inner import InnerInput, study_inner
from loopwm.models import AbstractWorldModel, count_parameters, uniform_actions
from loopwm.stability import TransitionCertificate, certify, certify_transition

VISITED, RANDOM, FAR = "visited", "random", "far"
"""Where an input of the inner loop comes from: a state that the agent met, a random latent state
and action, or an input and a first state far from all of them."""


def study_world_model(
    agent: PlanningAgent | PolicyAgent,
    visits: Visits,
    *,
    name: str,
    env: str,
    seed: int,
    actions: ActionLayout,
    config: StudyConfig,
) -> Study:
    """Certifies and measures the inner loop and the imagined transitions of an agent's model.

    Args:
        agent: the agent, its constrained weights resolved.
        visits: latent states that it meets, and its actions there.
        name: name of the run.
        env: its environment.
        seed: its seed.
        actions: what kind of vector an action is.
        config: sizes of the study.

    Returns:
        The study.

    Raises:
        UsageError: the model has no inner loop, or something voids its certificate.
    """
    model, networks = agent.world_model, agent.networks
    if not isinstance(model.core, LoopedCore | FlatGridCore):
        raise UsageError(
            f"The core of {name} is a {type(model.core).__name__}, which has no inner loop to "
            "study; give a run whose model.name is looped, grid or tokens."
        )
    certificate, transition = certificate_of(model.core), _ball(model)
    key_inputs, key_inner, key_outer = jax.random.split(jax.random.key(config.seed), 3)
    inputs = inner_inputs(model, model.core, visits, config, actions=actions, key=key_inputs)
    return Study(
        name=name,
        env=env,
        seed=seed,
        params={
            "total": count_parameters(networks),
            "world_model": count_parameters(model),
            "core": count_parameters(model.core),
        },
        certificate=certificate,
        reason=None if certificate is not None else why_none(model.core),
        transition=transition,
        guarantees=tuple(statements(model)),
        inner=study_inner(inputs, certificate, config, key=key_inner),
        outer=study_outer(
            model, networks.policy, visits, transition, config, actions=actions, key=key_outer
        ),
        verification=None,
        verified_ratio=None,
        config=config,
    )


def inner_inputs(
    model: AbstractWorldModel,
    core: LoopedCore | FlatGridCore,
    visits: Visits,
    config: StudyConfig,
    *,
    actions: ActionLayout,
    key: PRNGKeyArray,
) -> list[InnerInput]:
    """Inputs of the inner loop: visited, random and far ones.

    Args:
        model: the world model.
        core: its core.
        visits: latent states that the agent meets, and its actions there.
        config: how many of each.
        actions: what kind of vector an action is.
        key: PRNG key.

    Returns:
        The inputs; far ones start from a far state too, the others from h_0.
    """
    key_z, key_u, key_e, key_h = jax.random.split(key, 4)
    rows, count = spread(len(visits.z), config.visited), config.drawn
    z = jax.random.normal(key_z, (count, model.latent))
    u = uniform_actions(actions, count, key=key_u)
    near = _preludes(
        core, jnp.concatenate([visits.z[rows], z]), jnp.concatenate([visits.u[rows], u])
    )
    bound = [_bound(core, e) for e in near]
    far = config.far * jax.random.normal(key_e, (count, *near.shape[1:]))
    starts = config.far * jax.random.normal(key_h, (count, *bound[0].start().shape))
    kinds = [VISITED] * len(rows) + [RANDOM] * count
    return [
        InnerInput(kind, update, update.start(), model.depth)
        for kind, update in zip(kinds, bound, strict=True)
    ] + [InnerInput(FAR, _bound(core, e), h, model.depth) for e, h in zip(far, starts, strict=True)]


def why_none(module: object, state: Array | None = None) -> str | None:
    """The sentence with which `certify` refuses; None where it does not."""
    try:
        certify(module, state)
    except UsageError as error:
        return str(error)
    return None


@eqx.filter_jit
def _preludes(core: LoopedCore | FlatGridCore, z: Array, u: Array) -> Array:
    return jax.vmap(core.prelude)(z, u)


def _bound(core: LoopedCore | FlatGridCore, e: Array) -> AbstractUpdate:
    """The inner update for an input, its settings the float32 numbers that the loop rounds to."""
    update = _bind(core, e)
    settings = {
        field.name: float(np.float32(getattr(update, field.name)))
        for field in dataclasses.fields(update)
        if isinstance(getattr(update, field.name), float)
    }
    return dataclasses.replace(update, **settings)


@eqx.filter_jit
def _bind(core: LoopedCore | FlatGridCore, e: Array) -> AbstractUpdate:
    return core.bind(e)


def _ball(model: AbstractWorldModel) -> TransitionCertificate | None:
    """The proven ball of imagined states; None where the model declares none."""
    try:
        return certify_transition(model)
    except UsageError:
        return None
