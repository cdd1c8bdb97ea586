"""One piece of work of a comparison, and how it is done: what backends hand to processes."""

import dataclasses
from typing import Any

from loopwm.comparison.control import measure_control, try_control
from loopwm.envs import Spaces
from loopwm.errors import RunFailure, UsageError
from loopwm.evaluation.compare.cells import Cell, Diverged, Status
from loopwm.evaluation.compare.dynamics import measure_dynamics, try_dynamics
from loopwm.evaluation.compare.families import FAMILIES, build_blocks
from loopwm.evaluation.compare.logged import load_or_log
from loopwm.evaluation.compare.protocol import DynamicsProtocol, Protocol
from loopwm.evaluation.compare.tasks import find_task
from loopwm.models import Sizes
from loopwm.models.world_model import WorldModelBuilder


@dataclasses.dataclass(frozen=True)
class Choice:
    """What a search found for a family at a task and size."""

    shape: int
    """Which of the family's shapes."""
    rate: float
    """Learning rate."""


@dataclasses.dataclass(frozen=True)
class Job:
    """A cell to be measured, or trials to be made; plain, so that it travels to any process."""

    cell: Cell
    """The cell; for trials one whose seed is the search's."""
    protocol: Protocol
    data: str
    """Folder of logged data."""
    choice: Choice | None = None
    """Shape and rate of a cell; None for trials."""
    trials: tuple[Choice, ...] = ()
    """What is tried; none for a cell."""


def perform(job: Job) -> dict[str, Any]:
    """Does a job.

    Returns:
        `status`, `sentence` and `measures` of a cell; `trials` with shape, rate, score, status and
        sentence of each. What goes wrong with a model, its data or its environment is in it, and
        not raised.
    """
    return make_trials(job) if job.choice is None else measure(job, job.choice)


def measure(job: Job, choice: Choice) -> dict[str, Any]:
    """Trains and measures the model of a cell."""
    cell, protocol = job.cell, job.protocol
    try:
        if isinstance(protocol, DynamicsProtocol):
            episodes = load_or_log(job.data, find_task(cell.task), protocol, seed=cell.seed)
            builder = _builder(cell, choice.shape)
            found = measure_dynamics(builder, episodes, protocol, rate=choice.rate, seed=cell.seed)
        else:
            builder = _builder(cell, choice.shape)
            found = measure_control(builder, cell, protocol, rate=choice.rate)
    except Diverged as error:
        return {"status": Status.DIVERGED.value, "sentence": str(error), "measures": {}}
    except (UsageError, RunFailure) as error:
        return {"status": Status.FAILED.value, "sentence": str(error), "measures": {}}
    return {"status": Status.DONE.value, "sentence": None, "measures": found}


def make_trials(job: Job) -> dict[str, Any]:
    """Trains and scores every trial of a job; lower scores are better."""
    trials = []
    for choice in job.trials:
        score, sentence, status = None, None, Status.DONE
        try:
            score = _score(job, choice)
        except Diverged as error:
            sentence, status = str(error), Status.DIVERGED
        except (UsageError, RunFailure) as error:
            sentence, status = str(error), Status.FAILED
        trials.append(
            {
                **dataclasses.asdict(choice),
                "score": score,
                "status": status.value,
                "sentence": sentence,
            }
        )
    return {"trials": trials}


def best(trials: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Shape and rate of the trial with the lowest score, the first of equal ones; None of none."""
    scored = [trial for trial in trials if trial["score"] is not None]
    if not scored:
        return None
    won = min(scored, key=lambda trial: trial["score"])
    return {"shape": won["shape"], "rate": won["rate"]}


def _score(job: Job, choice: Choice) -> float:
    cell, protocol = job.cell, job.protocol
    builder = _builder(cell, choice.shape)
    if isinstance(protocol, DynamicsProtocol):
        episodes = load_or_log(job.data, find_task(cell.task), protocol, seed=cell.seed)
        return try_dynamics(builder, episodes, protocol, rate=choice.rate)
    return try_control(builder, cell, protocol, rate=choice.rate)


def sizes_of(task: str) -> Sizes:
    """Sizes of a task's observation and action vectors.

    Raises:
        UsageError: the environment cannot be made here.
    """
    spaces = Spaces.of_source(find_task(task).env)
    return Sizes(spaces.observation.size, spaces.action.size)


def _builder(cell: Cell, shape: int) -> WorldModelBuilder:
    if cell.blocks:
        return build_blocks(cell.family, cell.blocks, sizes_of(cell.task), cell.size)
    return FAMILIES[cell.family].build(shape, sizes_of(cell.task), cell.size)
