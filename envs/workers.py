"""A vector environment whose environments run in worker processes, and end with it in any case."""

import atexit
import contextlib
import copy
import functools
import multiprocessing
import queue
import signal
import sys
import time
import types
from collections.abc import Iterable, Iterator
from typing import Any, cast

import gymnasium as gym
from gymnasium.envs.registration import EnvCreator, EnvSpec, load_env_creator
from gymnasium.vector.async_vector_env import AsyncState

from loopwm.envs.infos import DepthAlone
from loopwm.envs.make import EnvSource, env_id, env_name, make, spaces_of
from loopwm.errors import RunFailure, UsageError, after_colon

_PATIENCE = 5.0
"""Seconds that workers get to close their environments before they are killed."""


class DeferredEnv(gym.Env):
    """An environment that is made by its first reset, in the worker.

    So a fault while it is made is reported, and waited for, as one of a reset is.
    """

    def __init__(
        self,
        source: EnvSource,
        spec: EnvSpec | None,
        observation_space: gym.Space,
        action_space: gym.Space,
    ):
        """Args: the source, its id's spec where it has one, and the spaces expected."""
        self.observation_space, self.action_space = observation_space, action_space
        self._source, self._spec = source, spec
        self._env: gym.Env | None = None
        if multiprocessing.parent_process() is not None:
            # A terminal and a job scheduler signal all processes, but the run wants to end its
            # step and to save first. No SIG_IGN: programs that the environment starts inherit it.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: None)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Resets the environment, which is made first."""
        if self._env is None:
            self._env = self._made()
        return self._env.reset(seed=seed, options=options)

    def step(self, action: Any):
        """Steps the environment."""
        assert self._env is not None
        return self._env.step(action)

    def close(self) -> None:
        """Closes the environment, if it was made."""
        if self._env is not None:
            self._env.close()

    def _made(self) -> gym.Env:
        if self._spec is not None:
            # What a script registered is not registered in its workers.
            gym.registry.setdefault(self._spec.id, self._spec)
        env = DepthAlone(make(self._source))
        if spaces_of(env) != spaces_of(self):
            raise RunFailure(
                f"{env_name(self._source)} has other spaces in a worker than in the main process; "
                "give it the same ones each time it is made."
            )
        return env


class WorkerVectorEnv(gym.vector.AsyncVectorEnv):
    """Gymnasium's asynchronous vector environment, with every fault of a worker in one sentence.

    After a fault, and when the process ends, no worker is left.
    """

    def __init__(
        self, source: EnvSource, count: int, *, mode: gym.vector.AutoresetMode, timeout: float
    ):
        """Starts the workers.

        Args:
            source: id or function.
            count: number of environments, one a worker.
            mode: when ended episodes are reset.
            timeout: seconds that a worker may take for an answer.

        Raises:
            UsageError: the environment cannot be made, or not be sent to a worker.
            RunFailure: a worker died before it began.
        """
        self._name, self._timeout = env_name(source), timeout
        single = make(source)
        spaces = spaces_of(single)
        single.close()
        spec = gym.registry.get(env_id(source) or "")
        spec = None if spec is None else whole_spec(spec)
        # Before any process is started: whatever happens, none survives this one.
        atexit.register(self._kill)
        try:
            with without_script():
                super().__init__(
                    [functools.partial(DeferredEnv, source, spec, *spaces)] * count,
                    context="spawn",  # JAX has threads, which a fork does not survive
                    autoreset_mode=mode,
                )
        except (EOFError, OSError) as error:
            self._abandon()
            raise RunFailure(
                f"A worker of {self._name} ended before it began; define the environment in a "
                "module that Python finds, or set collection.vector=sync."
            ) from error
        except Exception as error:
            self._abandon()
            raise UsageError(
                f"{self._name} cannot be sent to a worker ({type(error).__name__}"
                f"{after_colon(error)}); give a function that can be pickled, or set "
                "collection.vector=sync."
            ) from error
        except BaseException:
            self._abandon()
            raise

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None):
        """Resets all environments; a fault is a `RunFailure`."""
        with self._watched("reset"):
            self.reset_async(seed=seed, options=options)
            return self.reset_wait(timeout=self._timeout)

    def step(self, actions: Any):
        """Steps all environments; a fault is a `RunFailure`."""
        with self._watched("step"):
            self.step_async(actions)
            return self.step_wait(timeout=self._timeout)

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        """Closes the environments; workers that do not end by themselves are killed."""
        if not terminate and self._state is AsyncState.DEFAULT:
            for pipe in self.parent_pipes:
                with contextlib.suppress(OSError, AttributeError):
                    pipe.send(("close", None))
            deadline = time.monotonic() + (_PATIENCE if timeout is None else timeout)
            for process in self.processes:
                process.join(max(0.0, deadline - time.monotonic()))
        self._kill()

    @contextlib.contextmanager
    def _watched(self, what: str) -> Iterator[None]:
        """Turns what goes wrong with workers into a sentence, and ends them all."""
        try:
            yield
        except multiprocessing.TimeoutError as error:
            silent = [i for i, pipe in enumerate(self.parent_pipes) if not pipe.poll(0)]
            self._abandon()
            raise RunFailure(
                f"Worker {silent[0] if silent else 0} of {self._name} gave no answer to a {what} "
                f"within {self._timeout:g} seconds; correct the environment, or raise "
                "collection.worker_timeout."
            ) from error
        except (EOFError, OSError, queue.Empty) as error:
            number, status = self._dead()
            self._abandon()
            raise RunFailure(
                f"Worker {number} of {self._name} died in a {what} (exit status {status}); correct "
                "the environment, or check the memory that is left."
            ) from error
        except BaseException:
            self._abandon()
            raise

    def _raise_if_errors(self, successes: Iterable[bool]) -> None:
        """Raises what the first failed worker raised; Gymnasium would log it first."""
        failed = [self.error_queue.get(timeout=self._timeout) for ok in successes if not ok]
        if not failed:
            return
        number, kind, value, _ = min(failed, key=lambda failure: failure[0])
        if issubclass(kind, RunFailure | UsageError):
            raise RunFailure(str(value))
        raise RunFailure(
            f"Worker {number} of {self._name} raised {kind.__name__}{after_colon(value)}; correct "
            "the environment."
        )

    def _dead(self) -> tuple[int, int | None]:
        """Number and exit status of a worker that ended; it may take a moment to be known."""
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            for number, process in enumerate(self.processes):
                if process.exitcode is not None:
                    return number, process.exitcode
            time.sleep(0.01)
        return 0, None

    def _abandon(self) -> None:
        """Ends everything without asking."""
        self._kill()
        self.closed = True

    def _kill(self) -> None:
        """Ends the workers, waits for them, and forgets them."""
        for process in getattr(self, "processes", []):
            if process.pid is not None:
                process.kill()
                process.join()
        for pipe in getattr(self, "parent_pipes", []):
            if pipe is not None:
                pipe.close()
        if hasattr(self, "error_queue"):
            self.error_queue.close()
        atexit.unregister(self._kill)


def whole_spec(spec: EnvSpec) -> EnvSpec:
    """The spec, with what it names of the user's script in the name's place.

    Other processes do not have the script (see `without_script`), and find nothing by its name.
    """
    entry = spec.entry_point
    if not isinstance(entry, str) or not entry.startswith("__main__:"):
        return spec
    whole = copy.copy(spec)
    whole.entry_point = cast(EnvCreator, load_env_creator(entry))
    return whole


@contextlib.contextmanager
def without_script() -> Iterator[None]:
    """Starts processes that do not run the user's script again, as spawned ones do.

    They need nothing of it, since what it defines is pickled whole; and a script without
    `if __name__ == "__main__"` would start a run in each of them.
    """
    script = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script
