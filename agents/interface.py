"""What acts: one small interface."""

import abc
import dataclasses
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from loopwm.errors import UsageError
from loopwm.planning import CandidateReturns


@runtime_checkable
class SpaceCodec(Protocol):
    """How an agent's environment encodes observations and decodes actions."""

    def encode_observation(self, observation: Any) -> tuple[np.ndarray, bool]:
        """Vectors of shape (batch, n) of one observation or a batch; and whether a batch."""
        ...

    def decode_action(self, u: np.ndarray) -> np.ndarray:
        """Raw actions of encoded ones of shape (batch, n)."""
        ...


class DecisionStats(eqx.Module):
    """Telemetry of the latest decisions, one entry an environment."""

    loops: Float[Array | np.ndarray, " batch"]
    """Inner loops an imagined transition, mean; 0 for agents that imagine nothing."""
    bound: Float[Array | np.ndarray, " batch"]
    """Certified bound of how far the imagined transition under the action taken stopped from its
    fixed point, in the norm of the core's certificate for that input; infinite without one."""
    score: Float[Array | np.ndarray, " batch"]
    """Return of the best plan, normalised units."""
    finite: Bool[Array | np.ndarray, " batch"]
    """Whether the decision came out of finite numbers."""
    returns: CandidateReturns | None = None
    """Returns of the planner's candidates over its iterations, arrays of shape (batch,
    iterations); None where nothing was imagined."""

    @classmethod
    def unknown(cls, batch: int) -> "DecisionStats":
        """What holds where nothing was imagined."""
        # NumPy arrays, at every step of an agent that imagines nothing: JAX's cost programs.
        zeros = np.zeros(batch, np.float32)
        return cls(zeros, np.full_like(zeros, np.inf), zeros, np.ones(batch, bool))


class AgentState(eqx.Module):
    """What an agent carries from one decision to the next."""

    key: PRNGKeyArray
    memory: Any
    """Warm start of the planner, leading axis (batch,)."""
    stats: DecisionStats


class AbstractAgent(eqx.Module):
    """Maps observations to actions."""

    spaces: eqx.AbstractVar[SpaceCodec]

    @abc.abstractmethod
    def _cold_memory(self, batch: int) -> Any:
        """Memory at the start of an episode, leading axis (batch,)."""

    @abc.abstractmethod
    def _decide(
        self, observation: np.ndarray, state: AgentState, explore: bool
    ) -> tuple[Array, AgentState]:
        """Encoded actions of shape (batch, action) for encoded observations (batch, n)."""

    def initial_state(self, *, seed: int = 0, batch: int = 1) -> AgentState:
        """State before the first decision.

        Args:
            seed: seed of the agent's own randomness.
            batch: number of environments.

        Returns:
            The state for `act`.
        """
        return AgentState(
            key=jax.random.key(seed),
            memory=self._cold_memory(batch),
            stats=DecisionStats.unknown(batch),
        )

    def restart(self, state: AgentState, mask: np.ndarray) -> AgentState:
        """Forgets the plans of environments whose episode has just begun.

        Args:
            state: the current state.
            mask: environments that begin an episode, shape (batch,), bool.

        Returns:
            The state with the masked memories cold; the key goes on.

        Raises:
            UsageError: the mask does not fit the state.
        """
        if np.shape(mask) != np.shape(state.stats.loops):
            raise UsageError(
                f"The mask has shape {np.shape(mask)}, but the state is of "
                f"{len(state.stats.loops)} environments; give a bool for each of them."
            )
        if not np.any(mask):
            return state
        cold = self._cold_memory(len(mask))
        memory = jax.tree.map(
            lambda new, old: np.where(
                np.reshape(mask, (-1,) + (1,) * (np.ndim(old) - 1)), new, old
            ),
            cold,
            state.memory,
        )
        return dataclasses.replace(state, memory=memory)

    def act(
        self, observation: Any, state: AgentState | None = None, *, explore: bool = False
    ) -> tuple[Any, AgentState]:
        """Chooses actions.

        Args:
            observation: one raw observation of the environment, or a batch of them.
            state: from the previous call or `initial_state`; None begins an episode.
            explore: add the exploration used in training.

        Returns:
            The raw action, or a batch of them, and the state for the next call.

        Raises:
            UsageError: the observation does not fit the agent's observation space, or not the
                state.
        """
        vectors, batched = self.spaces.encode_observation(observation)
        if state is None:
            state = self.initial_state(batch=len(vectors))
        elif len(state.stats.loops) != len(vectors):
            raise UsageError(
                f"The state is of {len(state.stats.loops)} environments, but the observation of "
                f"{len(vectors)}; use initial_state(batch={len(vectors)}), or pass None."
            )
        encoded, state = self._decide(vectors, state, explore)
        actions = self.spaces.decode_action(np.asarray(encoded))
        return (actions if batched else actions[0]), state
