"""Agents to load: of a run's folder, or in a file of their own that can be shared."""

import dataclasses
import json
import os
import pathlib
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from loopwm import pretrained, settings
from loopwm.errors import RunFailure, UsageError, as_clause
from loopwm.training import checkpoint
from loopwm.training.config import RunConfig
from loopwm.training.run_folder import RunFolder

_ABOUT = "about"
_ACTING = ("env", "action_repeat", "seed", "model", "heads", "planning")
"""Settings that acting and evaluating need as a whole."""


@dataclasses.dataclass(frozen=True)
class SavedAgent:
    """What it takes to act as a trained agent does."""

    config: RunConfig
    """Configuration of its run; from a file, those of training's settings that acting does not need
    are the defaults."""
    arrays: Mapping[str, np.ndarray]
    """Networks and normaliser by their path in the trainer's state."""
    env_steps: int
    """Env steps it was trained for."""

    @property
    def networks(self) -> str:
        """Which networks of the learner act: its own, or their average where one is kept."""
        return "networks" if self.config.learner.average_rate is None else "average"


def read_agent(source: str | os.PathLike[str]) -> SavedAgent:
    """Reads an agent.

    Args:
        source: folder of a run, whose newest checkpoint is read; a file that `write_agent` made; or
            pretrained:NAME, an agent that comes with the package.

    Returns:
        The agent.

    Raises:
        UsageError: there is nothing of the kind, or it cannot be read.
    """
    name = os.fspath(source)
    if name.startswith(pretrained.PREFIX):
        return _read_file(pretrained.agent_file(name))
    if pathlib.Path(name).is_file():
        return _read_file(pathlib.Path(name))
    folder = RunFolder.open(name)
    config = folder.read_config()
    arrays, _ = checkpoint.load(folder)
    return SavedAgent(config, arrays, checkpoint.steps(folder)[-1])


def write_agent(agent: SavedAgent, file: str | os.PathLike[str]) -> None:
    """Writes an agent into one file, without what only training needs.

    Args:
        agent: the agent.
        file: a NumPy archive (.npz), which must not exist yet.

    Raises:
        UsageError: the file exists, or cannot be written.
    """
    path = pathlib.Path(file)
    if path.exists():
        raise UsageError(f"{path} exists already; give another file, or remove it.")
    try:
        _replace(agent, path)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written ({error.strerror}); give another file."
        ) from error


def keep_best(agent: SavedAgent, folder: RunFolder, mean: float) -> None:
    """Keeps the agent in the run's folder, unless an evaluation so far had a larger mean return.

    Args:
        agent: the agent that was evaluated.
        folder: the run's folder, whose evals.jsonl does not hold this evaluation yet.
        mean: the evaluation's mean return.

    Raises:
        RunFailure: the file cannot be written.
    """
    better = any(mean < record["return_mean"] for record in folder.read_evals())
    if better and folder.best_file.is_file():
        return
    try:
        _replace(agent, folder.best_file)
    except OSError as error:
        raise RunFailure(
            f"{folder.best_file} could not be written ({error.strerror}); check the space that is "
            "left there."
        ) from error


def drop_best_after(folder: RunFolder, env_steps: int) -> None:
    """Removes the kept agent if a run that goes on from `env_steps` takes its evaluation back."""
    kept = _kept_step(folder)
    if kept is None or kept > env_steps:
        folder.best_file.unlink(missing_ok=True)


def better_clause(folder: RunFolder) -> str:
    """A clause about the best evaluation's agent; empty where none is better than the last."""
    records, kept = folder.read_evals(), _kept_step(folder)
    best = next((record for record in records if record["env_steps"] == kept), None)
    if best is None or best is records[-1]:
        return ""
    return (
        f"; the best evaluation, at env step {kept}, had {best['return_mean']:.1f} and the last "
        f"one {records[-1]['return_mean']:.1f}: {folder.best_file} holds that agent"
    )


_DAMAGED = (zipfile.BadZipFile, zlib.error)


def _kept_step(folder: RunFolder) -> int | None:
    """Env steps after which the best agent was evaluated; None where no whole file holds one."""
    try:
        return _read_file(folder.best_file).env_steps
    except UsageError:
        return None


def _replace(agent: SavedAgent, path: pathlib.Path) -> None:
    """Writes the file, in the place of one that is there: a reader sees the one or the other."""
    about = {"config": _acting(agent.config), "env_steps": agent.env_steps}
    kept = (f"learner.{agent.networks}.", "normalizer.")
    arrays = {name: array for name, array in agent.arrays.items() if name.startswith(kept)}
    arrays[_ABOUT] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as stream:
            np.savez_compressed(stream, allow_pickle=False, **arrays)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _acting(config: RunConfig) -> dict[str, Any]:
    """The settings that acting and evaluating need; those of training may change with versions."""
    values = settings.dump(config)
    kept = {key: values[key] for key in _ACTING}
    learner, evaluation = config.learner, config.evaluation
    return kept | {
        "learner": {"discount": learner.discount, "average_rate": learner.average_rate},
        "evaluation": {"max_episode_steps": evaluation.max_episode_steps},
    }


def _read_file(path: pathlib.Path) -> SavedAgent:
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as archive:
            arrays: dict[str, np.ndarray] = dict(archive)
        about: dict[str, Any] = json.loads(arrays.pop(_ABOUT).tobytes())
        values, env_steps = about["config"], int(about["env_steps"])
    except (OSError, ValueError, KeyError, TypeError, EOFError, *_DAMAGED) as error:
        raise UsageError(
            f"{path} is no agent's file ({as_clause(error)}); give one that `loopwm export` wrote, "
            "or the folder of a run."
        ) from error
    try:
        config = settings.build(RunConfig, values)
    except UsageError as error:
        raise UsageError(
            f"{path} was written by another version of loopwm ({as_clause(error)}); give one "
            "that this version exported."
        ) from error
    return SavedAgent(config, arrays, env_steps)
