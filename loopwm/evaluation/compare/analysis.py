"""From records of cells to points, intervals and ratios."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from loopwm.evaluation.compare.cells import Record, Status
from loopwm.evaluation.compare.families import OURS, STACK
from loopwm.evaluation.compare.fronts import Point, Ratio, iso_ratio
from loopwm.evaluation.compare.recurrence import Worth, fit_worth
from loopwm.evaluation.compare.statistics import (
    Interval,
    aligned,
    iqm,
    iqm_interval,
    paired_bootstrap,
)
from loopwm.evaluation.compare.suites import Suite
from loopwm.evaluation.compare.tasks import find_task

DIVERGED_ERROR = 10.0
"""What a diverged cell counts as, if none is larger: ten times the error of predicting the mean."""
RETURN_TOLERANCE = 0.05
"""Returns within 5 % of the target count as equal."""


@dataclasses.dataclass(frozen=True)
class Place:
    """A family at one task and size: what its seeds reached, and what it costs."""

    task: str
    family: str
    size: int
    by_seed: Mapping[int, float]
    """Error, or return, by seed; a diverged one counts as in `DIVERGED_ERROR`, or as the lowest
    return of the task."""
    interval: Interval
    """Interquartile mean of the values."""
    costs: dict[str, float]
    """Medians over the seeds that were measured: params, params_core, flops_transition,
    us_transition, flops_training, seconds_training, peak_memory_mb, loops."""

    @property
    def values(self) -> Float[np.ndarray, " seeds"]:
        """What the seeds reached."""
        return np.array(list(self.by_seed.values()), np.float64)

    def content(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "task": self.task,
            "family": self.family,
            "size": self.size,
            "seeds": len(self.by_seed),
            **self.interval.content(),
            **self.costs,
        }


_COSTS = (
    "params",
    "params_core",
    "flops_transition",
    "us_transition",
    "flops_training",
    "seconds_training",
    "peak_memory_mb",
    "loops",
)


@dataclasses.dataclass(frozen=True)
class Versus:
    """Another family against ours at one task and size."""

    task: str
    family: str
    size: int
    interval: Interval
    """Errors: theirs over ours, above 1 ours is better. Returns: ours minus theirs, above 0 ours
    is better."""
    neutral: float
    """Where neither is better: 1 or 0."""

    @property
    def better(self) -> bool | None:
        """Whether ours is better or worse by the whole interval; None where they meet."""
        low, high = self.interval.low, self.interval.high
        if low is None or high is None or low <= self.neutral <= high:
            return None
        return low > self.neutral

    def content(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "task": self.task,
            "family": self.family,
            "size": self.size,
            "ours_better": self.better,
            **self.interval.content(),
        }


@dataclasses.dataclass(frozen=True)
class Scoped:
    """A ratio of parameters over some tasks."""

    family: str
    scope: str
    """`all`, a kind of task, or a task."""
    asked: int
    """Tasks of the scope; the ratio rests on fewer where one has no two sizes of both families."""
    ratio: Ratio

    def content(self) -> dict[str, Any]:
        """As plain data."""
        about = {"family": self.family, "scope": self.scope, "tasks_asked": self.asked}
        return {**about, **self.ratio.content()}


class Analysis:
    """What follows from the cells of a comparison."""

    def __init__(self, suite: Suite, records: Sequence[Record]):
        """Args: what was compared, and a record of every cell."""
        self.suite, self.records = suite, list(records)
        self.errors = suite.protocol.measured_by == "error"
        self.places = self._places()
        self.versus = [v for place in self.places if (v := self._versus(place)) is not None]
        self.ratios = self._ratios()
        self.worths = {t: w for t in suite.tasks if (w := self._worth(t)) is not None}
        """What a recurrence is worth, by task."""

    def place(self, task: str, family: str, size: int) -> Place | None:
        """The place, where any of its seeds was measured."""
        wanted = (task, family, size)
        return next((p for p in self.places if (p.task, p.family, p.size) == wanted), None)

    def count(self, status: Status) -> int:
        """How many cells have a status."""
        return sum(record.status is status for record in self.records)

    def _places(self) -> list[Place]:
        found = []
        for task in self.suite.tasks:
            worst = self._worst(task)
            for family in self.suite.families:
                for size in self.suite.sizes:
                    here = [
                        record
                        for record in self.records
                        if (record.cell.task, record.cell.family, record.cell.size)
                        == (task, family, size)
                        and not record.cell.blocks
                    ]
                    counted = [r for r in here if self._counted(r, worst) is not None]
                    values = {
                        record.cell.seed: value
                        for record in counted
                        if (value := self._counted(record, worst)) is not None
                    }
                    if not values:
                        continue
                    # What diverged is not measured, but its size is known.
                    done = [record for record in counted if record.done] or counted
                    costs = {
                        name: float(np.median([record.measures[name] for record in done]))
                        for name in _COSTS
                        if all(record.measures.get(name) is not None for record in done)
                    }
                    interval = iqm_interval([np.array(list(values.values()))])
                    found.append(Place(task, family, size, values, interval, costs))
        return found

    def _value(self, record: Record) -> float | None:
        """Error or return of a cell; None where it has none."""
        if not record.done:
            return None
        return record.measures.get("error" if self.errors else "return")

    def _counted(self, record: Record, worst: float | None) -> float | None:
        """Error or return of a cell, that of a diverged one as the worst; None without either."""
        return worst if record.status is Status.DIVERGED else self._value(record)

    def _worst(self, task: str) -> float | None:
        """What a diverged cell of a task counts as; None where no return is known."""
        known = [self._value(record) for record in self.records if record.cell.task == task]
        values = [value for value in known if value is not None]
        return max([DIVERGED_ERROR, *values]) if self.errors else min(values, default=None)

    def _versus(self, theirs: Place) -> Versus | None:
        ours = self.place(theirs.task, OURS, theirs.size)
        if ours is None or theirs.family == OURS:
            return None
        errors = self.errors
        both = aligned([ours.by_seed, theirs.by_seed])
        if not both.size:
            return None

        def statistic(drawn: np.ndarray) -> np.ndarray:
            a, b = iqm(drawn)
            return np.asarray(b / np.maximum(a, 1e-12) if errors else a - b)

        interval = paired_bootstrap(statistic, [both])
        neutral = 1.0 if errors else 0.0
        return Versus(theirs.task, theirs.family, theirs.size, interval, neutral)

    def _worth(self, task: str) -> Worth | None:
        worst = self._worst(task)
        found: dict[str, dict[int, dict[int, float]]] = {OURS: {}, STACK: {}}
        for record in self.records:
            cell, value = record.cell, self._counted(record, worst)
            if cell.task == task and cell.blocks and value is not None:
                found[cell.family].setdefault(cell.blocks, {})[cell.seed] = value
        return fit_worth(found[OURS], found[STACK])

    def _points(self, task: str, family: str) -> list[Point]:
        sign = 1.0 if self.errors else -1.0
        return [
            Point(place.costs["params"], {seed: sign * v for seed, v in place.by_seed.items()})
            for place in self.places
            if (place.task, place.family) == (task, family) and "params" in place.costs
        ]

    def _ratios(self) -> list[Scoped]:
        kinds = list(dict.fromkeys(find_task(task).kind for task in self.suite.tasks))
        scopes: list[tuple[str, tuple[str, ...]]] = [("all", self.suite.tasks)]
        if len(kinds) > 1:
            scopes += [
                (kind.value, tuple(t for t in self.suite.tasks if find_task(t).kind is kind))
                for kind in kinds
            ]
        if len(self.suite.tasks) > 1:
            scopes += [(task, (task,)) for task in self.suite.tasks]
        found = []
        for family in self.suite.families:
            if family == OURS or OURS not in self.suite.families:
                continue
            for scope, tasks in scopes:
                pairs = [(self._points(t, OURS), self._points(t, family)) for t in tasks]
                tolerance = 0.0 if self.errors else RETURN_TOLERANCE
                ratio = iso_ratio(pairs, logarithmic=self.errors, tolerance=tolerance)
                if ratio is not None:
                    found.append(Scoped(family, scope, len(tasks), ratio))
        return found
