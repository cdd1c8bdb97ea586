"""The networks that are trained together: world model, critic, policy."""

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from loopwm.actions import ActionLayout
from loopwm.core import with_full_gradient
from loopwm.models.policy import AbstractPolicy, CategoricalPolicy, GaussianPolicy
from loopwm.models.value import Critic, ValueConfig
from loopwm.models.world_model import AbstractWorldModel, Sizes, WorldModelBuilder
from loopwm.nn import resolve


class Networks(eqx.Module):
    """Everything trained by gradient."""

    world_model: AbstractWorldModel
    critic: Critic
    policy: AbstractPolicy

    def value(self, z: Float[Array, " latent"], *, key: PRNGKeyArray) -> Float[Array, "2"]:
        """State value under the policy by both critics, normalised units, shape (2,)."""
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
    """Builds world model, critic and policy for an environment.

    Args:
        builder: configuration of the world model.
        heads: sizes of critic and policy.
        sizes: sizes of observation and action vectors.
        actions: what kind of vector an action is.
        key: PRNG key.

    Returns:
        Freshly initialised networks.
    """
    key_model, key_critic, key_policy = jax.random.split(key, 3)
    world_model = builder.build(sizes, key=key_model)
    if actions.groups is None:
        policy = GaussianPolicy(world_model.latent, actions.size, heads, key=key_policy)
    else:
        policy = CategoricalPolicy(world_model.latent, actions.groups, heads, key=key_policy)
    return Networks(
        world_model=world_model,
        critic=Critic(world_model.latent, sizes.action, heads, key=key_critic),
        policy=policy,
    )


@eqx.filter_jit
def resolve_networks(networks: Networks) -> Networks:
    """The networks with their constrained weights computed, ready to act and to be analysed.

    Derivatives of their loops are full ones, whatever gradient they were trained with.

    Training and loading call this one program, so that a loaded agent has the same weights to the
    last bit.
    """
    return resolve(with_full_gradient(networks))


def count_parameters(module: object) -> int:
    """Number of trainable scalars in a module."""
    return sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(module, eqx.is_inexact_array)))
