"""The agent that follows the policy prior without planning."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from loopwm.agents.interface import AbstractAgent, AgentState, DecisionStats, SpaceCodec
from loopwm.models import AbstractWorldModel, Networks, Normalizer
from loopwm.programs import StoredProgram


class PolicyAgent(AbstractAgent):
    """Takes the policy's most likely action, or a sample when exploring."""

    networks: Networks
    """Trained networks, their constrained weights resolved."""
    normalizer: Normalizer
    spaces: SpaceCodec = eqx.field(static=True)

    @property
    def world_model(self) -> AbstractWorldModel:
        """The world model whose latent states the policy reads."""
        return self.networks.world_model

    def _cold_memory(self, batch: int) -> None:
        return None

    def _decide(
        self, observation: np.ndarray, state: AgentState, explore: bool
    ) -> tuple[Array, AgentState]:
        return _follow(
            (self.networks, self.normalizer), observation, state.key, np.asarray(explore)
        )


@StoredProgram
def _follow(parts, observation, key, explore) -> tuple[Array, AgentState]:
    networks, normalizer = parts
    key, key_actions = jax.random.split(key)
    batch = len(observation)

    def one(o, action_key):
        z = networks.world_model.encode(normalizer(o))
        sample, mode = networks.policy.sample(z, key=action_key), networks.policy.mode(z)
        return jnp.where(explore, sample, mode)

    actions = jax.vmap(one)(observation, jax.random.split(key_actions, batch))
    stats = DecisionStats(
        loops=jnp.zeros(batch),
        bound=jnp.full(batch, jnp.inf),
        score=jnp.zeros(batch),
        finite=jnp.all(jnp.isfinite(actions), axis=-1),
    )
    return actions, AgentState(key=key, memory=None, stats=stats)
