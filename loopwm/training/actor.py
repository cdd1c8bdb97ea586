"""What the trainer needs from outside: something that acts, and an evaluation."""

import dataclasses
from typing import Any, Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class Actor(Protocol):
    """What the trainer needs of an agent; `loopwm.agents` provides it."""

    def initial_state(self, *, seed: int, batch: int) -> Any:
        """State before the first decision."""
        ...

    def restart(self, state: Any, mask: np.ndarray) -> Any:
        """Forgets plans of environments that begin an episode."""
        ...

    def act(self, observation: Any, state: Any, *, explore: bool) -> tuple[Any, Any]:
        """Actions and the next state."""
        ...


@dataclasses.dataclass(frozen=True)
class EvaluationResult:
    """Outcome of some evaluation episodes."""

    returns: tuple[float, ...]
    """Undiscounted return of each episode."""
    loops_mean: float
    """Inner loops an imagined transition."""
    bound_max: float
    """Largest certified bound of how far an imagined transition, under the action that was then
    taken, stopped from its fixed point; infinite without a certificate."""
    decision_ms: float
    """Median milliseconds of one planner call, over the environments it served."""


class EvaluationStopped(Exception):
    """An evaluation gave up because a stop was requested."""
