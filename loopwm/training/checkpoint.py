"""Checkpoints of everything, written atomically with Orbax."""

import contextlib
import functools
import json
import logging
import pathlib
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from loopwm.errors import RunFailure, UsageError, as_clause
from loopwm.training.run_folder import RunFolder

Tree = TypeVar("Tree")


def arrays_of(tree: Any) -> dict[str, np.ndarray]:
    """The arrays of a tree by path; random keys as their data."""
    flat, _ = jax.tree_util.tree_flatten_with_path(eqx.filter(tree, _is_array))
    return {_name(path): np.asarray(_plain(leaf)) for path, leaf in flat}


def with_arrays(tree: Tree, arrays: Mapping[str, np.ndarray]) -> Tree:
    """The same tree with its arrays replaced.

    Raises:
        UsageError: an array is missing or has another shape.
    """

    def replace(path, leaf):
        name = _name(path)
        new = arrays.get(name)
        if new is None or np.shape(new) != np.shape(_plain(leaf)):
            raise UsageError(
                f"The checkpoint does not fit the run's configuration at {name}; load it with "
                "the config.yaml it was written with, in an environment of the same spaces."
            )
        if isinstance(leaf, np.ndarray):
            return np.asarray(new, leaf.dtype)  # host arrays stay float64
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(jnp.asarray(new))
        return jnp.asarray(new, leaf.dtype)

    dynamic, static = eqx.partition(tree, _is_array)
    return eqx.combine(jax.tree_util.tree_map_with_path(replace, dynamic), static)


def save(
    folder: RunFolder,
    step: int,
    arrays: Mapping[str, np.ndarray],
    meta: Mapping[str, Any],
    replay: Mapping[str, np.ndarray],
    keep: int = 2,
) -> pathlib.Path:
    """Writes a checkpoint, then drops the older ones.

    The replay goes first and the rest last, each into a temporary folder that Orbax renames when
    it is complete: a checkpoint that exists is whole, and has its replay.

    Args:
        folder: the run's folder.
        step: env steps so far, which name the checkpoint.
        arrays: parameters, optimiser, targets, normaliser, random keys.
        meta: counters and other plain values, JSON.
        replay: arrays of the replay.
        keep: number of checkpoints kept.

    Returns:
        The checkpoint's folder.

    Raises:
        RunFailure: it cannot be written.
    """
    target = folder.checkpoints / str(step)
    packed = {"arrays": dict(arrays), "meta": _encode(meta)}
    # A full disk too shows as many kinds of exception.
    try:
        with _one_failure():
            checkpointer = _checkpointer()
            checkpointer.save((folder.replay / str(step)).resolve(), dict(replay), force=True)
            checkpointer.save(target.resolve(), packed, force=True)
    except Exception as error:
        raise RunFailure(
            f"The checkpoint {target} could not be written ({as_clause(error)}); check the space "
            "that is left there."
        ) from error
    for old in steps(folder)[:-keep]:
        shutil.rmtree(folder.checkpoints / str(old), ignore_errors=True)
        shutil.rmtree(folder.replay / str(old), ignore_errors=True)
    return target


def steps(folder: RunFolder) -> list[int]:
    """Env steps of the checkpoints that are complete, ascending."""
    if not folder.checkpoints.is_dir():
        return []
    return sorted(int(p.name) for p in folder.checkpoints.iterdir() if p.name.isdigit())


def latest(folder: RunFolder) -> pathlib.Path | None:
    """The newest checkpoint's folder, if there is one."""
    found = steps(folder)
    return folder.checkpoints / str(found[-1]) if found else None


def load(folder: RunFolder) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and meta of the newest checkpoint.

    Raises:
        UsageError: there is none, or it cannot be read.
    """
    path = latest(folder)
    if path is None:
        raise UsageError(_nothing(folder))
    packed = _restore(path, path)
    try:
        return packed["arrays"], _decode(packed["meta"])
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(_corrupt(path, path)) from error


def load_replay(folder: RunFolder) -> dict[str, np.ndarray]:
    """The replay that belongs to the newest checkpoint."""
    path = latest(folder)
    if path is None:
        raise UsageError(_nothing(folder))
    return _restore(folder.replay / path.name, path)


def describe_latest(folder: RunFolder) -> str:
    """A clause for messages: which checkpoint is left."""
    path = latest(folder)
    if path is None:
        return "no checkpoint was written yet"
    return f"the last good checkpoint is {path}"


def _restore(path: pathlib.Path, whole: pathlib.Path) -> dict[str, Any]:
    # Orbax reports a damaged folder by many kinds of exception; all mean the same to a user.
    try:
        with _one_failure():
            return _checkpointer().restore(path.resolve())
    except Exception as error:
        raise UsageError(_corrupt(path, whole)) from error


@contextlib.contextmanager
def _one_failure() -> Iterator[None]:
    """Lets Orbax fail once: what its other tasks complain of from then on is passed over."""
    hook = sys.unraisablehook
    sys.unraisablehook = functools.partial(_unless_loop_is_closed, hook)
    yield
    sys.unraisablehook = hook


def _unless_loop_is_closed(hook: Callable[[Any], object], unraisable: Any) -> None:
    """Passes on what Python ignored, unless a task of Orbax came after the first one failed."""
    if "Event loop is closed" not in str(unraisable.exc_value):
        hook(unraisable)


def _nothing(folder: RunFolder) -> str:
    return f"{folder.path} holds no checkpoint; give a run that was trained for longer."


def _corrupt(path: pathlib.Path, whole: pathlib.Path) -> str:
    return f"{path} cannot be read; delete {whole} to use the one before it, or start a new run."


def _checkpointer():
    # Imported here: it takes half a second that acting does not need.
    import orbax.checkpoint as ocp

    logging.getLogger("absl").setLevel(logging.ERROR)
    return ocp.Checkpointer(ocp.PyTreeCheckpointHandler())


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray)


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _plain(leaf: Any) -> Any:
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key_data(leaf)
    return leaf


def _encode(meta: Mapping[str, Any]) -> np.ndarray:
    return np.frombuffer(json.dumps(meta).encode(), np.uint8)


def _decode(data: Any) -> dict[str, Any]:
    return json.loads(np.asarray(data, np.uint8).tobytes().decode())
