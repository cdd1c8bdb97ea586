"""What is asked of a comparison, checked before anything is written."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from loopwm import settings
from loopwm.comparison.jobs import Choice, builder_of, sizes_of
from loopwm.errors import UsageError, as_clause
from loopwm.evaluation.compare.cells import Cell, Record, Status, fingerprint
from loopwm.evaluation.compare.families import FAMILIES, OURS, STACK, check_families
from loopwm.evaluation.compare.protocol import ControlProtocol
from loopwm.evaluation.compare.suites import Suite, find_suite
from loopwm.evaluation.compare.tasks import find_task
from loopwm.models import Scalable, Sizes, WorldModelBuilder, parameters_of
from loopwm.run import resolve_config

Place = tuple[str, str, int]
"""Task, family and size."""

FORMAT = 3
"""Number of this protocol's code: raised when a change makes old cells incomparable."""


@dataclasses.dataclass(frozen=True)
class Request:
    """A suite with what was chosen of it."""

    suite: Suite

    @classmethod
    def of(
        cls,
        suite: str,
        *,
        tasks: Sequence[str] | None = None,
        families: Sequence[str] | None = None,
        sizes: Sequence[int] | None = None,
        seeds: int | None = None,
        quick: bool = False,
    ) -> "Request":
        """Takes the suite's own where nothing is given.

        Raises:
            UsageError: unknown suite, task or family; a size or number of seeds that is not
                positive.
        """
        found = find_suite(suite, quick=quick)
        chosen: dict[str, Any] = {}
        if families is not None:
            chosen["families"] = check_families(families)
            if not chosen["families"]:
                raise UsageError(f"No family is given; give some of {', '.join(FAMILIES)}.")
        if tasks is not None:
            for task in tasks:
                _check_task(task, found)
            chosen["tasks"] = tuple(dict.fromkeys(tasks))
            if not chosen["tasks"]:
                raise UsageError(f"No task is given; give some of {', '.join(found.tasks)}.")
        if sizes is not None:
            for size in sizes:
                if size < 1:
                    raise UsageError(f"--sizes has {size}; give positive numbers of parameters.")
            chosen["sizes"] = tuple(sorted(set(sizes)))
        if seeds is not None:
            if not 1 <= seeds <= 1_000:
                raise UsageError(f"--seeds is {seeds}; give 1 to 1000.")
            chosen["seeds"] = seeds
        return cls(dataclasses.replace(found, **chosen))

    def settings(self) -> dict[str, Any]:
        """What all cells of a folder share; tasks, sizes, families, seeds and trials are added."""
        protocol = settings.dump(self.suite.protocol)
        del protocol["search"]
        shared = {"format": FORMAT, "suite": self.suite.name, "protocol": protocol}
        if isinstance(self.suite.protocol, ControlProtocol):
            # The preset's contents, which may change under its name.
            shared["preset"] = settings.dump(
                resolve_config("CartPole-v1", config=self.suite.protocol.preset)
            )
        return shared

    def places(self) -> list[Place]:
        """Task, family and size of all cells."""
        return [
            (task, family, size)
            for task in self.suite.tasks
            for size in self.suite.sizes
            for family in self.suite.families
        ]

    def cell(self, place: Place, seed: int) -> Cell:
        """The cell of a place and seed."""
        task, family, size = place
        return Cell(suite=self.suite.name, task=task, family=family, size=size, seed=seed)

    def cells(self, place: Place) -> list[Cell]:
        """All cells of a place: its seeds and, where φ is fitted, those by loops and blocks."""
        suite, (task, family, size) = self.suite, place
        counts = (0,)
        fitted = {OURS, STACK} <= set(suite.families) and find_task(task).fits_recurrence
        if fitted and family in (OURS, STACK) and size == suite.sizes[len(suite.sizes) // 2]:
            counts = (0, *suite.protocol.recurrences)
        return [
            dataclasses.replace(self.cell(place, seed), blocks=count)
            for count in counts
            for seed in range(suite.seeds)
        ]

    def fingerprint(self, cell: Cell, choice: dict[str, Any]) -> str:
        """Digest of all that decides a cell.

        Args:
            cell: the cell.
            choice: shape and rate, the search's choice.
        """
        return fingerprint(self._decisive(cell, choice))

    def trials(self, place: Place) -> dict[Choice, str]:
        """What is tried at a place, in this order, and the digest of all that decides it."""
        search = self.suite.protocol.search
        cell = self.cell(place, search.seed)
        return {
            Choice(shape, rate): fingerprint(
                {**self._decisive(cell, {"shape": shape, "rate": rate}), "share": search.share}
            )
            for shape in range(search.shapes)
            for rate in search.rates
        }

    def _decisive(self, cell: Cell, choice: dict[str, Any]) -> dict[str, Any]:
        return {
            **self.settings(),
            "cell": dataclasses.asdict(cell),
            "shape": settings.dump(_shape(cell, choice["shape"])),
            "rate": choice["rate"],
        }

    def unavailable(self) -> dict[Place, tuple[Status, str]]:
        """Places that have no cells here, with the reason.

        Raises:
            UsageError: no family can be built at some size, or no task can be made here.
        """
        found: dict[Place, tuple[Status, str]] = {}
        makeable = 0
        for task in self.suite.tasks:
            try:
                sizes = sizes_of(task, self.suite.protocol)
            except UsageError as error:
                found |= {p: (Status.NOT_RUN, str(error)) for p in self.places() if p[0] == task}
                continue
            makeable += 1
            for place in self.places():
                reason = _unbuildable(place, sizes) if place[0] == task else None
                if reason is not None:
                    found[place] = (Status.UNBUILDABLE, reason)
        if not makeable:
            raise UsageError(next(iter(found.values()))[1])
        for size in self.suite.sizes:
            kinds = [found.get(place) for place in self.places() if place[2] == size]
            known = [kind for kind in kinds if kind is None or kind[0] is not Status.NOT_RUN]
            if known and all(kind is not None for kind in known):
                raise UsageError(
                    f"No family can be built with {size} parameters for any task; give other "
                    "--sizes."
                )
        return found

    def missing(self, place: Place, status: Status, why: str) -> list[Record]:
        """Records of the cells of a place without any; diverged ones know their size."""
        cells, known = self.cells(place), {}
        if status is Status.DIVERGED:
            models = {cell.blocks: dataclasses.replace(cell, seed=0) for cell in cells}
            known = {blocks: self._size(cell) for blocks, cell in models.items()}
        return [
            Record(cell, status, "", sentence=why, measures=known.get(cell.blocks, {}))
            for cell in cells
        ]

    def _size(self, cell: Cell) -> dict[str, Any]:
        """The number of parameters of a cell's model in the first shape; none that is not built."""
        protocol = self.suite.protocol
        try:
            builder = builder_of(cell, protocol, 0)
        except UsageError:
            return {}
        return {"params": parameters_of(builder, sizes_of(cell.task, protocol))}


def _shape(cell: Cell, choice: int) -> WorldModelBuilder:
    """What a cell's model is built from: by loops and blocks from ours, whatever the choice."""
    return FAMILIES[OURS].shapes[0] if cell.blocks else FAMILIES[cell.family].shapes[choice]


def _check_task(task: str, suite: Suite) -> None:
    """Raises UsageError for a task that is neither the suite's nor an environment made here."""
    if task in suite.tasks:
        return
    try:
        sizes_of(task, suite.protocol)
    except UsageError as error:
        raise UsageError(
            f"Suite {suite.name} has no task '{task}': {as_clause(error)}; its own are "
            f"{', '.join(suite.tasks)}."
        ) from error


def _unbuildable(place: Place, sizes: Sizes) -> str | None:
    """Why a family has no model of a size in its first shape; None where it has."""
    _, family, size = place
    if _least(family, sizes) <= size:
        return None
    try:
        FAMILIES[family].build(0, sizes, size)
    except UsageError as error:
        return str(error)
    return None


@functools.cache
def _least(family: str, sizes: Sizes) -> int:
    """Parameters of a family's narrowest model; 0 where its shape has no width."""
    shape = FAMILIES[family].shapes[0]
    return parameters_of(shape.at_width(1), sizes) if isinstance(shape, Scalable) else 0
