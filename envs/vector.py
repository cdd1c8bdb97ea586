"""Environments stepped together: in this process, or each in a worker process of its own."""

import enum
import functools

import gymnasium as gym

from loopwm.envs.make import EnvSource, make
from loopwm.envs.workers import WorkerVectorEnv


class VectorKind(enum.StrEnum):
    """Where environments that are stepped together run."""

    SYNC = "sync"
    """In this process, one after the other."""
    ASYNC = "async"
    """Each in a worker process of its own, side by side."""


def make_vector(
    source: EnvSource,
    count: int,
    *,
    same_step: bool = False,
    kind: VectorKind = VectorKind.SYNC,
    timeout: float = 60.0,
) -> gym.vector.VectorEnv:
    """Makes several environments stepped together.

    Args:
        source: id or function; workers get the function pickled.
        count: number of environments.
        same_step: reset an environment in the step that ends its episode, instead of the next.
        kind: in this process or in workers; both give the same numbers.
        timeout: seconds that a worker may take for an answer.

    Returns:
        The vector environment; its faults, those of workers among them, are raised as `RunFailure`.

    Raises:
        UsageError: an environment cannot be made, or not be sent to a worker.
    """
    mode = gym.vector.AutoresetMode.SAME_STEP if same_step else gym.vector.AutoresetMode.NEXT_STEP
    if kind is VectorKind.ASYNC:
        return WorkerVectorEnv(source, count, mode=mode, timeout=timeout)
    return gym.vector.SyncVectorEnv([functools.partial(make, source)] * count, autoreset_mode=mode)
