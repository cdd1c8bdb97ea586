"""Made-up comparisons: records with known errors, and a backend that trains nothing."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from loopwm.comparison import AbstractBackend, Job
from loopwm.comparison.backends import Results
from loopwm.evaluation.compare import SUITES, Cell, Record, Search, Status, Suite


def measures_of(error: float, params: float) -> dict[str, Any]:
    """Measures of a dynamics cell with this error and number of parameters."""
    return {
        "shape": 0,
        "rate": 1e-3,
        "nrmse": {"1": error, "5": error, "20": error, "50": None},
        "error": error,
        "reward_rmse": 0.1,
        "continuation_brier": 0.0,
        "params": params,
        "params_core": params / 2,
        "flops_transition": 2.0 * params,
        "us_transition": 1.0,
        "flops_training": 1e9,
        "seconds_training": 1.0,
        "cpu_seconds_training": 1.0,
        "peak_memory_mb": 100.0,
        "loss": 0.1,
        "loops": 4,
        "curve": {"1": 2 * error, "4": error},
    }


def record_of(cell: Cell, error: float) -> Record:
    """A finished cell that has the parameters it was asked for."""
    return Record(cell, Status.DONE, "f", measures=measures_of(error, cell.size))


def power_law(
    suite: Suite, scales: dict[str, float], spread: float, rng: np.random.Generator
) -> list[Record]:
    """Cells with errors (N / scale)^−1/2, a scale for each family, and noise.

    At equal error the family of scale s needs s times the parameters of the one of scale 1.
    """
    return [
        record_of(
            Cell(suite.name, task, family, size, seed),
            float((size / scales[family]) ** -0.5 * np.exp(spread * rng.normal())),
        )
        for task in suite.tasks
        for size in suite.sizes
        for family in suite.families
        for seed in range(suite.seeds)
    ]


def suite_of(**changes: Any) -> Suite:
    """Suite dynamics on two tasks with two families, three sizes and five seeds, or as given."""
    given = {
        "tasks": ("Pendulum-v1", "Acrobot-v1"),
        "families": ("looped", "gru"),
        "sizes": (1_000, 4_000, 16_000),
        **changes,
    }
    return dataclasses.replace(SUITES["dynamics"], **given)


def small_debug(**protocol: Any) -> Suite:
    """Suite debug with next to no data and updates."""
    given = {
        "env_steps": 400,
        "longest": 50,
        "updates": 4,
        "batch_size": 4,
        "horizon": 3,
        "steps": (1, 5),
        "sequences": 16,
        "search": Search(rates=(1e-3,), shapes=1),
        **protocol,
    }
    suite = SUITES["debug"]
    return dataclasses.replace(suite, protocol=dataclasses.replace(suite.protocol, **given))


class CountingBackend(AbstractBackend):
    """Answers jobs from a function, and keeps which it was given."""

    def __init__(self, answer: Callable[[Job], dict[str, Any]], stop_after: int | None = None):
        """Args: gives a job's result; jobs after which the user interrupts."""
        self.answer, self.stop_after = answer, stop_after
        self.cells: list[str] = []
        self.searches: list[str] = []

    def run(self, jobs: Sequence[Job]) -> Results:
        """Answers them in their order."""
        for job in jobs:
            if self.stop_after is not None and len(self.cells) >= self.stop_after:
                raise KeyboardInterrupt
            (self.searches if job.choice is None else self.cells).append(job.cell.name)
            yield job, self.answer(job)


def answer(job: Job) -> dict[str, Any]:
    """A result that depends on family, size and seed alone."""
    cell = job.cell
    if job.choice is None:
        done = {"score": 1.0, "status": "done", "sentence": None}
        return {"trials": [dataclasses.asdict(choice) | done for choice in job.trials]}
    error = (1.0 if cell.family == "looped" else 1.5) * cell.size**-0.5 * (1 + 0.01 * cell.seed)
    return {"status": "done", "sentence": None, "measures": measures_of(error, cell.size)}
