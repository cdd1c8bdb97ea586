"""One piece of work of a comparison, and how it is done: what backends hand to processes."""

import dataclasses
from typing import Any

from loopwm.comparison.control import measure_control, try_control
from loopwm.envs import Spaces
from loopwm.errors import NotFinite, RunFailure, UsageError
from loopwm.evaluation.compare.cells import Cell, Status
from loopwm.evaluation.compare.dynamics import measure_dynamics, try_dynamics
from loopwm.evaluation.compare.families import FAMILIES, build_blocks
from loopwm.evaluation.compare.logged import load_or_log
from loopwm.evaluation.compare.protocol import DynamicsProtocol, Protocol
from loopwm.evaluation.compare.tasks import find_task
from loopwm.models import Sizes, parameters_of
from loopwm.models.world_model import WorldModelBuilder
from loopwm.session import model_sizes


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
    """Trains and measures the model of a cell; of one that diverges its size is known."""
    cell, protocol = job.cell, job.protocol
    try:
        builder = builder_of(cell, protocol, choice.shape)
        try:
            if isinstance(protocol, DynamicsProtocol):
                task = find_task(cell.task)
                episodes = load_or_log(job.data, task, protocol, seed=cell.seed)
                found = measure_dynamics(
                    builder, episodes, protocol, rate=choice.rate, seed=cell.seed
                )
            else:
                found = measure_control(builder, cell, protocol, rate=choice.rate)
        except NotFinite as error:
            size = {"params": parameters_of(builder, sizes_of(cell.task, protocol))}
            return {"status": Status.DIVERGED.value, "sentence": str(error), "measures": size}
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
        except NotFinite as error:
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
    builder = builder_of(cell, protocol, choice.shape)
    if isinstance(protocol, DynamicsProtocol):
        episodes = load_or_log(job.data, find_task(cell.task), protocol, seed=cell.seed)
        return try_dynamics(builder, episodes, protocol, rate=choice.rate)
    return try_control(builder, cell, protocol, rate=choice.rate)


def sizes_of(task: str, protocol: Protocol) -> Sizes:
    """Sizes of a task's observations and actions, as the protocol's models get them.

    Raises:
        UsageError: the environment cannot be made here.
    """
    spaces = Spaces.of_source(find_task(task).env)
    if isinstance(protocol, DynamicsProtocol):
        # Logged observations are vectors, those of grids and images too.
        return Sizes(spaces.observation.size, spaces.action.size)
    return model_sizes(spaces)


def builder_of(cell: Cell, protocol: Protocol, shape: int) -> WorldModelBuilder:
    """The configuration of a cell's model in one of its family's shapes.

    Raises:
        UsageError: there is none of that size, or the environment cannot be made here.
    """
    sizes = sizes_of(cell.task, protocol)
    if cell.blocks:
        return build_blocks(cell.family, cell.blocks, sizes, cell.size)
    return FAMILIES[cell.family].build(shape, sizes, cell.size)
