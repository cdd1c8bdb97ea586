"""Files of a comparison that are whole or found out not to be."""

import contextlib
import hashlib
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

from loopwm.errors import UsageError
from loopwm.evaluation.compare.cells import KEPT, Cell, Record, plain
from loopwm.training.lock import alone
from loopwm.training.run_folder import write_text

Say = Callable[[str], None]


class Damaged(Exception):
    """A file is half-written or was changed."""


def write_checked(path: pathlib.Path, content: dict[str, Any]) -> None:
    """Writes plain data with its checksum, so that a reader sees the old file or the new one."""
    content = plain(content)
    text = json.dumps({"checksum": _checksum(content), "content": content}, indent=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text + "\n")


def read_checked(path: pathlib.Path) -> dict[str, Any] | None:
    """What `write_checked` wrote; None where there is no file.

    Raises:
        Damaged: the file is half-written or was changed.
    """
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise Damaged(str(path)) from error
    if not isinstance(read, dict) or read.get("checksum") != _checksum(read.get("content")):
        raise Damaged(str(path))
    return read["content"]


def _checksum(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class Folder:
    """The folder of a comparison: its settings, data, searches and cells."""

    def __init__(self, path: str | os.PathLike[str], say: Say):
        """Args: the folder, not touched yet; says sentences about files that have to be redone."""
        self.path, self.say = pathlib.Path(path), say
        self.data = str((self.path / "data").absolute())
        self.settings_file = self.path / "compare.json"

    def open(self, settings: dict[str, Any]) -> None:
        """Makes the folder, or goes on in it.

        Args:
            settings: suite and protocol, which all cells of the folder share.

        Raises:
            UsageError: it is a file, cannot be written, belongs to something else, or to a
                comparison with other settings.
        """
        try:
            if self.path.exists() and not self.path.is_dir():
                raise UsageError(f"{self.path} is a file; give a folder as --out.")
            used = self.path.is_dir() and any(self.path.iterdir())
            if used and not self.settings_file.exists():
                raise UsageError(f"{self.path} holds something else; give another --out.")
            found = self._read(self.settings_file)
            if found is not None and found != plain(settings):
                raise UsageError(
                    f"{self.path} holds a comparison with other settings "
                    f"({_difference(found, plain(settings))}); give another --out."
                )
            if found is None:
                write_checked(self.settings_file, settings)
        except OSError as error:
            raise UsageError(
                f"{self.path} cannot be written ({error.strerror}); give another --out."
            ) from error

    def alone(self) -> contextlib.AbstractContextManager[None]:
        """Keeps other comparisons out of the folder, until this one or its process ends."""
        taken = f"Another comparison runs in {self.path}; wait for its end and give the command "
        return alone(self.path, f"{taken}again, or give another --out.")

    def finished(self, cell: Cell, fingerprint: str) -> Record | None:
        """The record of a cell that was finished with the same settings; None where none was."""
        content = self._read(self._cell_file(cell))
        record = None if content is None else Record.of(content)
        if record is None or record.fingerprint != fingerprint or record.status not in KEPT:
            return None
        return record

    def keep(self, record: Record) -> None:
        """Writes a cell's file."""
        write_checked(self._cell_file(record.cell), record.content())

    def trials(self, cell: Cell) -> list[dict[str, Any]]:
        """The trials that are kept of a family at a task and size, made with whatever settings."""
        content = self._read(self._search_file(cell))
        return [] if content is None else content["trials"]

    def keep_trials(self, cell: Cell, trials: list[dict[str, Any]]) -> None:
        """Writes a search's file."""
        write_checked(self._search_file(cell), {"trials": trials})

    def _cell_file(self, cell: Cell) -> pathlib.Path:
        return self.path / "cells" / f"{cell.name}.json"

    def _search_file(self, cell: Cell) -> pathlib.Path:
        return self.path / "searches" / f"{cell.name}.json"

    def _read(self, path: pathlib.Path) -> dict[str, Any] | None:
        try:
            return read_checked(path)
        except Damaged:
            self.say(f"{path} is only half written or was changed, so it is done again.")
            return None


def _difference(old: Any, new: Any, path: str = "") -> str:
    """The first setting in which two differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *new]:
            if old.get(key) != new.get(key):
                return _difference(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))
    return f"{path} was {old}, now {new}"
