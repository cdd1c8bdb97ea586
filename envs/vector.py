"""Environments stepped together: in this process, or each in a worker process of its own."""

import enum
from collections.abc import Callable

import gymnasium as gym

from loopwm.choices import member
from loopwm.envs.infos import DepthAlone
from loopwm.envs.make import (
    OTHER_SPACES,
    SAME_AGAIN,
    EnvSource,
    env_name,
    innermost,
    make,
    spaces_of,
)
from loopwm.envs.workers import WorkerVectorEnv
from loopwm.errors import RunFailure, UsageError


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
    former: gym.Env | None = None,
) -> gym.vector.VectorEnv:
    """Makes several environments stepped together.

    Args:
        source: id or function; workers get the function pickled.
        count: number of environments.
        same_step: reset an environment in the step that ends its episode, instead of the next.
        kind: in this process or in workers; both give the same numbers.
        timeout: seconds that a worker may take for an answer.
        former: an environment without wrappers that the source made before, and may not again.

    Returns:
        The vector environment, with nothing but `true_depth` in its `info`; its faults, those of
        workers among them, are raised as `RunFailure`.

    Raises:
        UsageError: an environment cannot be made, is the same one again, or cannot be sent to a
            worker.
        RunFailure: environments made here have different spaces.
    """
    mode = gym.vector.AutoresetMode.SAME_STEP if same_step else gym.vector.AutoresetMode.NEXT_STEP
    if member(VectorKind, kind, "collection.vector") is VectorKind.ASYNC:
        return WorkerVectorEnv(source, count, mode=mode, timeout=timeout)
    made = [_handed(env) for env in _alike(source, count, former)]
    return gym.vector.SyncVectorEnv(made, autoreset_mode=mode)


def _alike(source: EnvSource, count: int, former: gym.Env | None) -> list[gym.Env]:
    """Different environments with the same spaces; all are closed where one cannot be had."""
    envs: list[gym.Env] = []
    try:
        for _ in range(count):
            envs.append(DepthAlone(make(source)))
            *made, new = map(innermost, envs)
            if any(new is one for one in (former, *made)):
                raise UsageError(f"{env_name(source)} {SAME_AGAIN}.")
            if spaces_of(envs[-1]) != spaces_of(envs[0]):
                raise RunFailure(f"{env_name(source)} {OTHER_SPACES}.")
    except BaseException:
        for env in envs:
            env.close()
        raise
    return envs


def _handed(env: gym.Env) -> Callable[[], gym.Env]:
    return lambda: env
