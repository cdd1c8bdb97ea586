"""Runs that many tests share, and how to start the command line."""

import collections
import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

HELPERS = pathlib.Path(__file__).parent
ROOT = HELPERS.parents[1]


@dataclasses.dataclass(frozen=True)
class Run:
    """A run that ended, and the agent that `loopwm.train` gave back."""

    agent: Any
    path: pathlib.Path
    traced: collections.Counter[str]
    """How often each jitted function was traced while it ran."""

    @property
    def evals(self) -> list[dict[str, Any]]:
        """Lines of evals.jsonl."""
        return read_evals(self.path)

    @property
    def summary(self) -> dict[str, Any]:
        """Contents of summary.json."""
        return json.loads((self.path / "summary.json").read_text())


def read_evals(path: pathlib.Path) -> list[dict[str, Any]]:
    """Lines of a run's evals.jsonl."""
    return [json.loads(line) for line in (path / "evals.jsonl").read_text().splitlines()]


def without_times(evals: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Evaluations less what a clock measured."""
    timed = ("wall_seconds", "decision_ms")
    return [{key: v for key, v in record.items() if key not in timed} for record in evals]


@pytest.fixture(scope="session")
def compile_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pathlib.Path]:
    """Folder of compiled programs, shared with subprocesses: each is compiled once a session.

    Test processes that run side by side have one each: JAX writes to it without a lock.
    """
    given = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    folder = pathlib.Path(given) if given else tmp_path_factory.mktemp("jax-cache")
    if given and (worker := os.environ.get("PYTEST_XDIST_WORKER")):
        folder /= worker
    before = {
        name: jax.config.values[name]
        for name in (
            "jax_enable_compilation_cache",
            "jax_compilation_cache_dir",
            "jax_persistent_cache_min_compile_time_secs",
        )
    }
    jax.config.update("jax_enable_compilation_cache", True)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    compilation_cache.reset_cache()  # JAX decides once a process whether there is a cache
    yield folder
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope="session")
def cartpole_run(compile_cache: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A `debug` run of CartPole-v1, seed 0; read it, and copy it before changing anything."""
    return _debug_run("CartPole-v1", tmp_path_factory)


@pytest.fixture(scope="session")
def pendulum_run(compile_cache: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A `debug` run of Pendulum-v1, seed 0; read it, and copy it before changing anything."""
    return _debug_run("Pendulum-v1", tmp_path_factory)


def _debug_run(env: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    import loopwm

    path = tmp_path_factory.mktemp("runs") / env
    traced: collections.Counter[str] = collections.Counter()

    def listen(event: str, duration_secs: float, **kwargs: Any) -> None:
        if event == "/jax/core/compile/jaxpr_trace_duration" and not over:
            traced[str(kwargs.get("fun_name"))] += 1

    over = False
    jax.monitoring.register_event_duration_secs_listener(listen)
    agent = loopwm.train(env, config="debug", seed=0, out=path, quiet=True)
    over = True
    return Run(agent, path, traced)


@pytest.fixture
def cartpole_copy(cartpole_run: Run, tmp_path: pathlib.Path) -> pathlib.Path:
    """Folder of a copy of the CartPole run, to be changed."""
    return pathlib.Path(shutil.copytree(cartpole_run.path, tmp_path / "copy"))


@pytest.fixture
def in_tmp(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def subprocess_environment(compile_cache: pathlib.Path) -> dict[str, str]:
    """Environment of a Python process that finds loopwm, the helpers and compiled programs."""
    return os.environ | {
        "JAX_ENABLE_COMPILATION_CACHE": "true",
        "JAX_COMPILATION_CACHE_DIR": str(compile_cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(HELPERS))),
    }


@pytest.fixture(scope="session")
def run_python(
    subprocess_environment: dict[str, str],
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs Python on some arguments in a folder and waits for it."""

    def start(*arguments: object, cwd: pathlib.Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *(str(a) for a in arguments)],
            cwd=cwd,
            env=subprocess_environment,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return start
