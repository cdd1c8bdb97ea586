"""What a run has counted."""

import dataclasses


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

    def owes(self, updates_per_call: int) -> bool:
        """Whether a stop left updates, so many a call, or an evaluation of this step undone."""
        due = self.env_steps >= self.next_evaluation or self.updates_owed >= updates_per_call
        return self.learning_since is not None and due
