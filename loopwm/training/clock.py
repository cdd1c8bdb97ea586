"""Wall-clock of training, evaluations left out, and the share that compilation took."""

import contextlib
import functools
import time
from collections.abc import Iterator

import jax

_COMPILE_EVENTS = (
    "/jax/core/compile/jaxpr_trace_duration",
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "/jax/core/compile/backend_compile_duration",
)


@functools.cache
def _compiled() -> list[float]:
    """Seconds that this process has spent compiling; one listener, which JAX keeps for good."""
    total = [0.0]

    def listen(event: str, duration_secs: float, **_kwargs: object) -> None:
        if event in _COMPILE_EVENTS:
            total[0] += duration_secs

    jax.monitoring.register_event_duration_secs_listener(listen)
    return total


class Clock:
    """Counts seconds while it is not paused."""

    def __init__(self):
        """Stands still at 0 until `start`."""
        self._spent = (0.0, 0.0)
        self._since: tuple[float, float] | None = None
        _compiled()

    def start(self, wall: float, compiling: float) -> None:
        """Starts from seconds already spent."""
        self._spent, self._since = (wall, compiling), self._now()

    def read(self) -> tuple[float, float]:
        """Seconds of training and of compilation so far."""
        wall, compiling = self._spent
        if self._since is None:
            return wall, compiling
        now = self._now()
        return wall + now[0] - self._since[0], compiling + now[1] - self._since[1]

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time inside out of both counts."""
        self._spent, self._since = self.read(), None
        try:
            yield
        finally:
            self._since = self._now()

    @staticmethod
    def _now() -> tuple[float, float]:
        return time.perf_counter(), _compiled()[0]
