"""What a run has counted."""

import dataclasses

import numpy as np
from jaxtyping import Float


@dataclasses.dataclass
class Counters:
    """Plain numbers that a checkpoint keeps."""

    env_steps: int = 0
    wall_seconds: float = 0.0
    compile_seconds: float = 0.0
    updates_owed: float = 0.0
    reward_scale: float = 1e-8
    solved_at: int | None = None
    learning_since: int | None = None
    next_look: int = 0
    next_evaluation: int = 0
    next_checkpoint: int = 0

    def see_rewards(self, rewards: Float[np.ndarray, " steps"]) -> None:
        """Takes over r_max from the rewards of env steps, shape (steps,).

        Where it doubles, the range of values no longer fits, and is looked at before the next
        update.
        """
        largest = max(self.reward_scale, *np.abs(rewards), 1e-8)
        if largest >= 2.0 * self.reward_scale:
            self.next_look = 0
        self.reward_scale = largest

    def owes(self, updates_per_call: int) -> bool:
        """Whether a stop left updates, so many a call, or an evaluation of this step undone."""
        due = self.env_steps >= self.next_evaluation or self.updates_owed >= updates_per_call
        return self.learning_since is not None and due
