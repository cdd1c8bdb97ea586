"""What the trainer needs from outside: something that acts, and an evaluation."""

import dataclasses
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8


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
class Episode:
    """The beginning of an episode, encoded as a model gets it but not normalised."""

    action: Float[np.ndarray, "steps action"]
    """u_0 … u_{K−1}, shape (steps, action)."""
    observation: Float[np.ndarray, "steps+1 observation"] | UInt8[np.ndarray, "steps+1 observation"]
    """o_0 … o_K, shape (steps + 1, observation)."""
    reward: Float[np.ndarray, " steps"]
    """r_0 … r_{K−1}, shape (steps,)."""
    terminated: bool
    """Whether the task ended with the last step."""
    truncated: bool
    """Whether time ran out with the last step."""
    seed: int
    """Seed of the environment and of the agent."""


@dataclasses.dataclass(frozen=True)
class Candidates:
    """Returns of a planner's candidates over its iterations, in the mean over decisions.

    Normalised units, as those of a decision.
    """

    best: Float[np.ndarray, " iterations"]
    """Largest return, shape (iterations,)."""
    mean: Float[np.ndarray, " iterations"]
    """Mean over the candidates, shape (iterations,)."""
    spread: Float[np.ndarray, " iterations"]
    """Standard deviation over the candidates, shape (iterations,)."""
    decisions: int
    """Decisions that the mean is over."""


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
    candidates: Candidates | None = None
    """What the planner weighed; None where nothing was planned."""
    episode: Episode | None = None
    """The beginning of the first episode, where it was asked for."""

    def record(self, env_steps: int, wall_seconds: float) -> dict[str, Any]:
        """A line of evals.jsonl, after so many env steps and seconds of training."""
        return {
            "env_steps": env_steps,
            "wall_seconds": wall_seconds,
            "return_mean": float(np.mean(self.returns)),
            "return_std": float(np.std(self.returns)),
            "episodes": len(self.returns),
            "loops_mean": self.loops_mean,
            "decision_ms": self.decision_ms,
        }


class EvaluationStopped(Exception):
    """An evaluation gave up because a stop was requested."""
