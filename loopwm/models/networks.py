"""The networks that are trained together: world model, critic, policy."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from loopwm.actions import ActionLayout
from loopwm.core import with_full_gradient
from loopwm.models.policy import AbstractPolicy, CategoricalPolicy, GaussianPolicy
from loopwm.models.value import Critic, ValueConfig
from loopwm.models.world_model import (
    AbstractWorldModel,
    Sizes,
    WorldModelBuilder,
    present_size,
)
from loopwm.nn import resolve
from loopwm.programs import RUNS_ONCE, StoredProgram


class Networks(eqx.Module):
    """Everything trained by gradient."""

    world_model: AbstractWorldModel
    critic: Critic
    policy: AbstractPolicy

    def value(self, z: Float[Array, " latent"], *, key: PRNGKeyArray) -> Float[Array, " members"]:
        """State value under the policy by each critic, normalised units, shape (members,)."""
        actions, weights, _ = self.policy.weighted_actions(z, key=key)
        return weights @ jax.vmap(lambda u: self.critic.values(z, u))(actions)


def build_networks(
    builder: WorldModelBuilder,
    heads: ValueConfig,
    sizes: Sizes,
    *,
    actions: ActionLayout,
    key: PRNGKeyArray,
) -> Networks:
    """Builds world model, critic and policy for an environment, in one compiled program.

    Start-up would feel the dozens of small programs of building eagerly.

    Args:
        builder: configuration of the world model.
        heads: sizes of critic and policy.
        sizes: sizes of observation and action vectors.
        actions: what kind of vector an action is.
        key: PRNG key.

    Returns:
        Freshly initialised networks.
    """
    return _built((builder, heads, sizes, actions), key)


def building_is_kept(
    builder: WorldModelBuilder, heads: ValueConfig, sizes: Sizes, *, actions: ActionLayout
) -> bool:
    """Whether the program that builds such networks has been kept by an earlier process."""
    return _built.is_kept((builder, heads, sizes, actions), jax.random.key(0))


@functools.partial(StoredProgram, compiler_options=RUNS_ONCE)
def _built(
    frozen: tuple[WorldModelBuilder, ValueConfig, Sizes, ActionLayout], key: PRNGKeyArray
) -> Networks:
    builder, heads, sizes, actions = frozen
    key_model, key_critic, key_policy = jax.random.split(key, 3)
    world_model = builder.build(sizes, key=key_model)
    inputs = present_size(world_model)
    if actions.groups is None:
        policy = GaussianPolicy(inputs, actions.size, heads, key=key_policy)
    else:
        policy = CategoricalPolicy(inputs, actions.groups, heads, key=key_policy)
    return Networks(
        world_model=world_model,
        critic=Critic(inputs, sizes.action, heads, key=key_critic),
        policy=policy,
    )


def resolve_networks(networks: Networks) -> Networks:
    """The networks with their constrained weights computed, ready to act and to be analysed.

    Derivatives of their loops are full ones, whatever gradient they were trained with.

    Training and loading call this one program, so that a loaded agent has the same weights to the
    last bit.
    """
    return _resolved((), networks)


@StoredProgram
def _resolved(_: tuple[()], networks: Networks) -> Networks:
    return resolve(with_full_gradient(networks))


def count_parameters(module: object) -> int:
    """Number of trainable scalars in a module, or in one of shapes in place of arrays."""
    return sum(leaf.size for leaf in jax.tree.leaves(module) if _is_trainable(leaf))


def _is_trainable(leaf: object) -> bool:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jnp.issubdtype(leaf.dtype, jnp.inexact)
    return eqx.is_inexact_array(leaf)
