"""What a check of an environment finds."""

import dataclasses
import enum
from typing import Any


class Level(enum.StrEnum):
    """How bad a finding is."""

    OK = "ok"
    """Nothing to mend."""
    WARNING = "warning"
    """Training works, but perhaps not as it was meant."""
    ERROR = "error"
    """Training fails, cannot be repeated, or learns from wrong numbers."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that a check found."""

    name: str
    """Name of the check."""
    level: Level
    message: str
    """One sentence: what was found, and how to mend it."""


@dataclasses.dataclass(frozen=True)
class Report:
    """All findings about an environment."""

    env: str
    """Name of the environment."""
    findings: tuple[Finding, ...]

    def of_level(self, level: Level) -> tuple[Finding, ...]:
        """The findings of a level, in the order of the checks."""
        return tuple(finding for finding in self.findings if finding.level is level)

    @property
    def exit_status(self) -> int:
        """1 if there is an error, otherwise 0; that of the command `loopwm check-env`."""
        return 1 if self.of_level(Level.ERROR) else 0

    def record(self) -> dict[str, Any]:
        """env, findings (name, level, message), and the number of errors and of warnings."""
        return {
            "env": self.env,
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
            "errors": len(self.of_level(Level.ERROR)),
            "warnings": len(self.of_level(Level.WARNING)),
        }
