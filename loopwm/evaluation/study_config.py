"""How much a stability study measures."""

import dataclasses

from loopwm.errors import UsageError


@dataclasses.dataclass(frozen=True)
class StudyConfig:
    """Sizes of a stability study; every count at least 1."""

    seed: int = 0
    """Seed of everything that is drawn: the episode, inputs, searches, actions."""
    episode_steps: int = 64
    """Env steps that the agent plays to find the states it meets, fewer if the episode ends."""
    visited: int = 6
    """Inputs of the inner loop from that episode, spread over it."""
    drawn: int = 3
    """Inputs from random latent states and actions; as many again are far ones."""
    far: float = 100.0
    """Standard deviation of far inputs and far states."""
    loops: int = 64
    """Loops that residuals are followed for."""
    attacked: int = 3
    """Inputs at which pairs of states are searched: those with the largest Jacobian norm."""
    attack_starts: int = 32
    """Pairs of states searched at each of them."""
    attack_steps: int = 100
    """Ascent steps of each pair."""
    eigenvalues: int = 64
    """Eigenvalues computed of each Jacobian, the largest ones."""
    rollouts: int = 8
    """Imagined rollouts for each way to choose actions."""
    horizon: int = 1000
    """Imagined steps of each rollout."""
    candidates: int = 16
    """Random action sequences that the adversary of a rollout has to choose from, beside those
    that gradients point to and, where actions are discrete, each action held."""
    lookahead: int = 8
    """Steps of such a sequence: the adversary plays one to its end before it chooses again."""
    exponent_steps: int = 200
    """Loops, and imagined steps, that Lyapunov exponents are averaged over."""

    def __post_init__(self):
        """Refuses counts below 1 and a distance that is not positive."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name != "seed" and not value > 0:
                raise UsageError(f"{field.name} is {value}; give a positive number.")
