"""Wall-clock of training, evaluations left out, and the share that compilation took."""

import contextlib
import time
from collections.abc import Iterator

import jax

_COMPILE_EVENTS = (
    "/jax/core/compile/jaxpr_trace_duration",
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "/jax/core/compile/backend_compile_duration",
)


class Clock:
    """Counts seconds while it is not paused."""

    def __init__(self):
        """Listens to JAX's compile events from now on."""
        self._wall = 0.0
        self._compile = 0.0
        self._since: float | None = None
        jax.monitoring.register_event_duration_secs_listener(self._on_event)

    def _on_event(self, event: str, duration_secs: float, **_kwargs: object) -> None:
        if event in _COMPILE_EVENTS and self._since is not None:
            self._compile += duration_secs

    def start(self, wall: float, compiling: float) -> None:
        """Starts from seconds already spent."""
        self._wall, self._compile, self._since = wall, compiling, time.perf_counter()

    def read(self) -> tuple[float, float]:
        """Seconds of training and of compilation so far."""
        running = 0.0 if self._since is None else time.perf_counter() - self._since
        return self._wall + running, self._compile

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time inside out of both counts."""
        self._wall, _ = self.read()
        self._since = None
        try:
            yield
        finally:
            self._since = time.perf_counter()
