"""The agent that every other one has to beat."""

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array

from loopwm.actions import ActionLayout
from loopwm.agents.interface import AbstractAgent, AgentState, DecisionStats, SpaceCodec
from loopwm.models import uniform_actions


class RandomAgent(AbstractAgent):
    """Uniform actions, whatever it sees."""

    actions: ActionLayout = eqx.field(static=True)
    """What kind of vector an action is."""
    spaces: SpaceCodec = eqx.field(static=True)

    def _cold_memory(self, batch: int) -> None:
        return None

    def _decide(
        self, observation: np.ndarray, state: AgentState, explore: bool
    ) -> tuple[Array, AgentState]:
        key, key_actions = jax.random.split(state.key)
        batch = len(observation)
        actions = uniform_actions(self.actions, batch, key=key_actions)
        stats = DecisionStats.unknown(batch)
        return actions, AgentState(key=key, memory=None, stats=stats)
