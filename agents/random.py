"""The agent that every other one has to beat."""

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array

from loopwm.agents.interface import AbstractAgent, AgentState, DecisionStats, SpaceCodec


class RandomAgent(AbstractAgent):
    """Uniform actions, whatever it sees."""

    action_size: int = eqx.field(static=True)
    discrete: bool = eqx.field(static=True)
    spaces: SpaceCodec = eqx.field(static=True)

    def _cold_memory(self, batch: int) -> None:
        return None

    def _decide(
        self, observation: np.ndarray, state: AgentState, explore: bool
    ) -> tuple[Array, AgentState]:
        key, key_actions = jax.random.split(state.key)
        batch = len(observation)
        if self.discrete:
            index = jax.random.randint(key_actions, (batch,), 0, self.action_size)
            actions = jax.nn.one_hot(index, self.action_size)
        else:
            shape = (batch, self.action_size)
            actions = jax.random.uniform(key_actions, shape, minval=-1.0, maxval=1.0)
        stats = DecisionStats.unknown(batch)
        return actions, AgentState(key=key, memory=None, stats=stats)
