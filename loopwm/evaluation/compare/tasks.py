"""Tasks of a comparison: environments, and how their data is logged."""

import dataclasses
import enum
from collections.abc import Callable

import numpy as np


class Kind(enum.StrEnum):
    """What kind of environment a task is; ratios are given for each kind alone too."""

    CLASSIC = "classic control"
    MUJOCO = "MuJoCo"
    KNOWN_DEPTH = "known depth"
    OTHER = "other"


Driver = Callable[[np.ndarray], int]
"""A hand-written rule from a raw observation to an action."""


def balance(observation: np.ndarray) -> int:
    """Pushes a cart towards the side that its pole leans and falls to (CartPole)."""
    position, speed, angle, turning = observation
    return int(angle + 0.3 * turning + 0.03 * position + 0.06 * speed > 0.0)


@dataclasses.dataclass(frozen=True)
class Task:
    """An environment that models are compared in."""

    env: str
    """Gymnasium id; also the task's name."""
    kind: Kind
    """What kind of environment."""
    driver: str | None = None
    """Hand-written rule that keeps episodes long in half of the data, see `DRIVERS`; without one
    that half has a new random action every step."""

    @property
    def fits_recurrence(self) -> bool:
        """Whether φ is fitted: not where a step is known to be one small step of an integrator."""
        return self.kind not in (Kind.CLASSIC, Kind.MUJOCO)

    @property
    def slug(self) -> str:
        """Its name in file names."""
        return self.env.replace("/", "-").replace(":", "-")


DRIVERS: dict[str, Driver] = {"balance": balance}

TASKS: dict[str, Task] = {
    task.env: task
    for task in (
        Task("CartPole-v1", Kind.CLASSIC, driver="balance"),
        Task("Pendulum-v1", Kind.CLASSIC),
        Task("Acrobot-v1", Kind.CLASSIC),
        Task("InvertedPendulum-v5", Kind.MUJOCO),
        Task("Hopper-v5", Kind.MUJOCO),
        Task("loopwm/SlidingIce-v0", Kind.KNOWN_DEPTH),
        Task("loopwm/Automaton-v0", Kind.KNOWN_DEPTH),
        Task("loopwm/Dominoes-v0", Kind.KNOWN_DEPTH),
        Task("loopwm/FloodMaze-v0", Kind.KNOWN_DEPTH),
        Task("loopwm/NLinkPendulum-v0", Kind.KNOWN_DEPTH),
    )
}


def find_task(name: str) -> Task:
    """The task of that name; any other Gymnasium id is a task too, without a hand-written rule."""
    return TASKS.get(name) or Task(name, Kind.OTHER)
