"""What a person and TensorBoard see of a run."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)

from loopwm.training.run_folder import RunFolder


@runtime_checkable
class Telemetry(Protocol):
    """Where a trainer reports to."""

    def step(self, env_steps: int, episode_return: float, loops: float, decision_ms: float) -> None:
        """After each vector step."""
        ...

    def scalars(self, env_steps: int, values: dict[str, float]) -> None:
        """Numbers of the learner or of an evaluation."""
        ...

    def images(
        self, env_steps: int, values: Mapping[str, UInt8[np.ndarray, "height width 3"]]
    ) -> None:
        """Pictures of an evaluation."""
        ...

    def message(self, text: str) -> None:
        """One line for the person watching."""
        ...

    def close(self) -> None:
        """At the end, however it ends."""
        ...


class RunTelemetry:
    """Progress bar on the terminal and TensorBoard events in the run's folder."""

    def __init__(self, folder: RunFolder, total: int, start: int, *, quiet: bool = False):
        """Starts reporting.

        Args:
            folder: the run's folder.
            total: env steps of the whole run.
            start: env steps done already.
            quiet: print nothing.
        """
        self._folder, self._start = folder, start
        self._writer: Any = None
        self._console = Console(stderr=True, quiet=quiet)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("env steps · {task.fields[status]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=quiet or not self._console.is_terminal,
        )
        self._task = self._progress.add_task(
            folder.path.name, total=total, completed=start, status="collecting"
        )
        self._progress.start()

    def step(self, env_steps: int, episode_return: float, loops: float, decision_ms: float) -> None:
        """Moves the bar."""
        status = f"return {episode_return:.1f} · loops {loops:.1f} · {decision_ms:.1f} ms/decision"
        self._progress.update(self._task, completed=env_steps, status=status)

    def scalars(self, env_steps: int, values: dict[str, float]) -> None:
        """Writes TensorBoard scalars."""
        for name, value in values.items():
            self._events().add_scalar(name, value, env_steps)

    def images(
        self, env_steps: int, values: Mapping[str, UInt8[np.ndarray, "height width 3"]]
    ) -> None:
        """Writes TensorBoard images."""
        for name, value in values.items():
            self._events().add_image(name, value, env_steps, dataformats="HWC")

    def _events(self) -> Any:
        """Writer of the event file; the first call makes the file."""
        if self._writer is None:
            # Imported here: loading a run to act does not need it.
            from tensorboardX import SummaryWriter

            # A resumed run has a file of its own, and takes back what came after its checkpoint.
            self._writer = SummaryWriter(
                str(self._folder.path),
                purge_step=self._start + 1 if self._start else None,
                filename_suffix=f".{self._start}",
            )
        return self._writer

    def message(self, text: str) -> None:
        """Prints a line above the bar."""
        self._progress.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Stops the bar and flushes the events."""
        self._progress.stop()
        self._events().close()  # the file is there, though a short run has nothing to put into it


def eval_line(record: dict[str, Any], threshold: float | None, seconds: float) -> str:
    """One line about an evaluation."""
    goal = "" if threshold is None else f" (threshold {threshold:g})"
    return (
        f"{record['env_steps']:>7} env steps  return {record['return_mean']:8.1f} "
        f"± {record['return_std']:.1f}{goal}  loops {record['loops_mean']:.1f}  "
        f"{record['decision_ms']:.1f} ms/decision  training {record['wall_seconds']:.0f} s  "
        f"evaluation {seconds:.0f} s"
    )
