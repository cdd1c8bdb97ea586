"""The agent that every other one has to beat."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from loopwm.actions import ActionLayout, held_steps
from loopwm.agents.interface import AbstractAgent, AgentState, DecisionStats, SpaceCodec
from loopwm.models import uniform_actions
from loopwm.programs import StoredProgram


class Held(NamedTuple):
    """The action that each environment is at, and for how many more steps."""

    action: Float[Array | np.ndarray, "batch action"]
    left: Int[Array | np.ndarray, " batch"]


class RandomAgent(AbstractAgent):
    r"""Uniform actions, whatever it sees, each held for a random number of steps.

    The number is log-uniform (`loopwm.actions.held_steps`). Held actions reach states that actions
    drawn anew every step, which cancel out, do not.

    Source: Dabney et al. 2021, "Temporally-Extended ε-Greedy Exploration" (arXiv 2006.01782), with
        another law of durations.
    """

    actions: ActionLayout = eqx.field(static=True)
    """What kind of vector an action is."""
    spaces: SpaceCodec = eqx.field(static=True)
    hold: tuple[int, int] = eqx.field(static=True, default=(1, 1))
    """m and n: env steps that an action is held, at least and at most."""

    def _cold_memory(self, batch: int) -> Held:
        return Held(np.zeros((batch, self.actions.size), np.float32), np.zeros(batch, np.int32))

    def _decide(
        self, observation: np.ndarray, state: AgentState, explore: bool
    ) -> tuple[Array, AgentState]:
        key, action, held = _drawn((self.actions, self.hold), state.key, state.memory)
        stats = DecisionStats.unknown(len(observation))
        return action, AgentState(key=key, memory=held, stats=stats)


@StoredProgram
def _drawn(
    frozen: tuple[ActionLayout, tuple[int, int]], key: PRNGKeyArray, held: Held
) -> tuple[PRNGKeyArray, Array, Held]:
    """The next key, the actions of this step, and what is held after it."""
    (actions, hold), batch = frozen, len(held.left)
    key, key_actions, key_steps = jax.random.split(key, 3)
    drawn = uniform_actions(actions, batch, key=key_actions)
    steps = held_steps(jax.random.uniform(key_steps, (batch,)), hold)
    over = held.left == 0
    action = jnp.where(over[:, None], drawn, held.action)
    left = jnp.where(over, steps, held.left) - 1
    return key, action, Held(action, left)
