"""A run's folder: what is where, and how it is written without leaving halves behind."""

import json
import os
import pathlib
import shutil
from typing import Any

import yaml

from loopwm import settings
from loopwm.errors import UsageError, as_clause
from loopwm.training.config import RunConfig


class RunFolder:
    """Paths and small files of one run."""

    def __init__(self, path: str | os.PathLike[str]):
        """Args: the folder; nothing is touched yet."""
        self.path = pathlib.Path(path)
        self.config_file = self.path / "config.yaml"
        self.evals_file = self.path / "evals.jsonl"
        self.summary_file = self.path / "summary.json"
        self.best_file = self.path / "best.npz"
        self.report_file = self.path / "report.html"
        self.checkpoints = self.path / "checkpoints"
        self.replay = self.path / "replay"
        self.videos = self.path / "videos"

    @classmethod
    def create(cls, path: str | os.PathLike[str], config: RunConfig) -> "RunFolder":
        """Makes a new run's folder.

        Raises:
            UsageError: the folder holds something already, or cannot be written.
        """
        folder, making = cls(path), False
        try:
            if folder.path.exists() and (not folder.path.is_dir() or any(folder.path.iterdir())):
                raise UsageError(
                    f"{folder.path} is already used; give another --out, or go on with "
                    f"--resume {folder.path}."
                )
            making = True
            for part in (folder.checkpoints, folder.replay, folder.videos):
                part.mkdir(parents=True, exist_ok=True)
            folder.evals_file.touch()
            write_text(folder.config_file, yaml.safe_dump(settings.dump(config), sort_keys=False))
        except OSError as error:
            if making:  # half a folder would be taken for a run
                shutil.rmtree(folder.path, ignore_errors=True)
            raise UsageError(
                f"{folder.path} cannot be written ({error.strerror}); give another --out."
            ) from error
        return folder

    def discard(self) -> None:
        """Removes the folder of a run that could not begin; one that has anything to show stays."""
        if not any(self.checkpoints.glob("*")) and not self.read_evals():
            shutil.rmtree(self.path, ignore_errors=True)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "RunFolder":
        """Opens an existing run's folder.

        Raises:
            UsageError: there is no run in it.
        """
        folder = cls(path)
        if not folder.config_file.is_file():
            raise UsageError(
                f"{folder.path} holds no loopwm run (config.yaml is missing); give the folder "
                "that `loopwm train` wrote."
            )
        return folder

    def read_config(self) -> RunConfig:
        """The resolved configuration of the run.

        Raises:
            UsageError: the file cannot be read, or is not one that `loopwm train` wrote.
        """
        values = read_yaml(self.config_file)
        try:
            return settings.build(RunConfig, values)
        except UsageError as error:
            raise UsageError(
                f"{self.config_file} is not the configuration of a loopwm run "
                f"({as_clause(error)}); give the folder that `loopwm train` wrote."
            ) from error

    def write_config(self, config: RunConfig) -> None:
        """Replaces the configuration, for a resumed run with more steps."""
        write_text(self.config_file, yaml.safe_dump(settings.dump(config), sort_keys=False))

    def append_eval(self, record: dict[str, Any]) -> None:
        """Adds a line to evals.jsonl."""
        with open(self.evals_file, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()

    def read_evals(self, up_to: int | None = None) -> list[dict[str, Any]]:
        """The evaluations so far, those after env step `up_to` left out."""
        if not self.evals_file.is_file():
            return []
        lines = self.evals_file.read_text(encoding="utf-8", errors="replace").splitlines()
        records = []
        for line in lines:
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                break  # the last line of a killed run may be half written
            if not isinstance(record, dict) or "env_steps" not in record:
                break  # half a number is a number too
            records.append(record)
        return [r for r in records if up_to is None or r["env_steps"] <= up_to]

    def rewrite_evals(self, records: list[dict[str, Any]]) -> None:
        """Replaces evals.jsonl, when a run goes back to its last checkpoint."""
        write_text(self.evals_file, "".join(json.dumps(r) + "\n" for r in records))

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Replaces summary.json."""
        write_text(self.summary_file, json.dumps(summary, indent=2) + "\n")


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a file so that a reader sees the old one or the new one, never a half."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def read_yaml(path: pathlib.Path) -> Any:
    """Reads a YAML mapping; a `UsageError` says what is wrong with the file."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}); check the path.") from error
    # A date that does not exist, too many digits and bytes that are no text are plain ValueErrors.
    except (yaml.YAMLError, ValueError) as error:
        raise UsageError(f"{path} is not valid YAML; correct or replace it.") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UsageError(f"{path} holds no mapping of settings; use lines of key: value.")
    return values
