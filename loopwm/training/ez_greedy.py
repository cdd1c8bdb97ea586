"""Temporally-extended ε-greedy: random actions, held for a while, among planned ones."""

from typing import Any

import numpy as np
from jaxtyping import Bool

from loopwm.actions import held_steps
from loopwm.training.actor import Actor
from loopwm.training.config import CollectionConfig


class EzGreedy:
    r"""Exploration that lasts: now and then an environment is at one random action for some steps.

    At a step that nothing is held at, a hold begins with probability ε (`collection.epsilon`). It
    lasts a log-uniform number of steps (`loopwm.actions.held_steps`, `collection.epsilon_hold`), or
    until the episode ends. What takes many equal actions in a row is
    found in this way; a plan that draws each of them does not make them.

    Source: Dabney et al. 2021, "Temporally-Extended ε-Greedy Exploration" (arXiv 2006.01782), with
        another law of durations.
    """

    def __init__(
        self, config: CollectionConfig, actor: Actor, rng: np.random.Generator, *, seed: int
    ):
        """Nothing is held.

        Args:
            config: ε, how long actions are held, and the number of environments.
            actor: draws a new random action whenever it is restarted.
            rng: draws when holds begin and how long they last; left alone where ε is 0.
            seed: of the actor's own randomness.
        """
        self._epsilon = config.epsilon or 0.0
        self._hold, self._actor, self._rng = config.epsilon_hold, actor, rng
        self._envs = config.envs
        self.reseed(seed)
        self._left = np.zeros(config.envs, np.int64)
        self._held: np.ndarray | None = None

    def reseed(self, seed: int) -> None:
        """Draws other actions from now on."""
        self._state = self._actor.initial_state(seed=seed, batch=self._envs)

    def restart(self, mask: Bool[np.ndarray, " envs"]) -> None:
        """Lets go in environments whose episode has just begun, shape (envs,)."""
        self._left[mask] = 0

    def apply(self, observation: Any, planned: np.ndarray) -> np.ndarray:
        """The actions to take instead of the planned ones.

        Args:
            observation: raw observations of all environments.
            planned: raw planned actions, leading axis (envs,).

        Returns:
            The planned actions, but what is held where a hold goes on, leading axis (envs,).
        """
        if self._epsilon == 0.0:
            return planned
        begins = (self._left == 0) & (self._rng.random(len(self._left)) < self._epsilon)
        if np.any(begins):
            state = self._actor.restart(self._state, begins)
            drawn, self._state = self._actor.act(observation, state, explore=True)
            self._held = _where(begins, drawn, planned if self._held is None else self._held)
            steps = held_steps(self._rng.random(len(self._left)), self._hold)
            self._left = np.where(begins, steps, self._left)
        if self._held is None:
            return planned
        actions = _where(self._left > 0, self._held, planned)
        self._left = np.maximum(self._left - 1, 0)
        return actions


def _where(mask: np.ndarray, chosen: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Rows of one array where the mask holds, of the other one elsewhere."""
    return np.where(mask.reshape(-1, *[1] * (np.ndim(chosen) - 1)), chosen, others)
