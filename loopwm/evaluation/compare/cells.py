"""Cells of a comparison: what one is, and what is known of it afterwards."""

import dataclasses
import enum
import hashlib
import json
import math
from typing import Any


class Status(enum.StrEnum):
    """What became of a cell."""

    DONE = "done"
    """Measured."""
    DIVERGED = "diverged"
    """Its loss or its predictions became infinite or NaN."""
    FAILED = "failed"
    """It could not be trained or measured."""
    UNBUILDABLE = "unbuildable"
    """The family has no model of this size for the task."""
    NOT_RUN = "not run"
    """The task cannot be made on this machine."""


KEPT = (Status.DONE, Status.DIVERGED)
"""What is not tried again: the others may go otherwise on another day or machine."""


@dataclasses.dataclass(frozen=True, order=True)
class Cell:
    """One model, of one family and size, trained on one task from one seed."""

    suite: str
    task: str
    family: str
    size: int
    """Parameters of the world model that are asked for."""
    seed: int
    blocks: int = 0
    """Loops of a looped model, or different blocks of an unshared stack of the same width, in the
    cells that φ is fitted to; 0 for the family's own."""

    @property
    def name(self) -> str:
        """Its name in file names and messages."""
        task = self.task.replace("/", "-").replace(":", "-")
        blocks = f".blocks{self.blocks}" if self.blocks else ""
        return f"{task}.{self.family}.{self.size}{blocks}.seed{self.seed}"


@dataclasses.dataclass(frozen=True)
class Record:
    """What is known of a cell."""

    cell: Cell
    status: Status
    fingerprint: str
    """Digest of all settings that it depends on."""
    sentence: str | None = None
    """Why there are no numbers; None where there are."""
    measures: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Numbers by name, see `loopwm.evaluation.compare.dynamics` and `loopwm.comparison.control`."""

    def content(self) -> dict[str, Any]:
        """As plain data, which `of` reads."""
        return plain(dataclasses.asdict(self))

    @classmethod
    def of(cls, content: dict[str, Any]) -> "Record":
        """The record that `content` wrote."""
        values = content | {"cell": Cell(**content["cell"]), "status": Status(content["status"])}
        return cls(**values)

    @property
    def done(self) -> bool:
        """Whether it was measured."""
        return self.status is Status.DONE


def fingerprint(settings: Any) -> str:
    """Digest of plain settings, 16 hexadecimal digits."""
    text = json.dumps(plain(settings), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def plain(value: Any) -> Any:
    """The value as JSON knows it: null for what is not finite, lists for tuples."""
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
