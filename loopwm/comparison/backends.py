"""Where the jobs of a comparison are done: in this process, or side by side in others."""

import abc
import concurrent.futures
import dataclasses
import json
import os
import pathlib
import pickle
import subprocess
import sys
import tempfile
import threading
from collections.abc import Generator, Sequence
from typing import Any

from loopwm.comparison.jobs import Job, perform
from loopwm.errors import as_clause
from loopwm.evaluation.compare.cells import Status

Results = Generator[tuple[Job, dict[str, Any]], None, None]
"""Jobs with their results, as they are done."""

_ONE_CORE = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


class AbstractBackend(abc.ABC):
    """Does jobs; a further kind is one file."""

    @abc.abstractmethod
    def run(self, jobs: Sequence[Job]) -> Results:
        """Does jobs, in any order, and gives each with what `perform` gave as it is done.

        When it is closed, jobs that wait are dropped. A job whose process dies gets a result too,
        with status `failed` and a sentence.
        """


class InlineBackend(AbstractBackend):
    """One after the other in this process: for tests and debugging.

    Peak memory is then that of the process, with all that it did before.
    """

    def run(self, jobs: Sequence[Job]) -> Results:
        """Does the jobs in their order."""
        for job in jobs:
            yield job, perform(job)


class LocalBackend(AbstractBackend):
    """Each job in a process of its own with one thread, so many side by side."""

    def __init__(self, processes: int):
        """Args: processes side by side, at least 1."""
        self.processes = processes
        self._running: set[subprocess.Popen] = set()
        self._stopped = threading.Event()

    def run(self, jobs: Sequence[Job]) -> Results:
        """Does the jobs; those that run are ended when the caller stops asking."""
        pool = concurrent.futures.ThreadPoolExecutor(self.processes)
        try:
            futures = {pool.submit(self._one, job): job for job in jobs}
            for future in concurrent.futures.as_completed(futures):
                yield futures[future], future.result()
        finally:
            self._stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(self._running):
                process.kill()
            pool.shutdown(wait=True)
            self._stopped.clear()

    def _one(self, job: Job) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            (folder / "job").write_bytes(pickle.dumps(job))
            (folder / "path.json").write_text(json.dumps(sys.path), encoding="utf-8")
            words = [sys.executable, "-m", "loopwm.comparison.worker", name]
            with open(folder / "errors", "wb") as errors:
                # The worker ends when this pipe is closed: none outlives a killed comparison.
                with subprocess.Popen(
                    words, stdin=subprocess.PIPE, stdout=errors, stderr=errors, env=one_core()
                ) as process:
                    self._running.add(process)
                    if self._stopped.is_set():
                        process.kill()
                    status = process.wait()
                    self._running.discard(process)
            result = folder / "result.json"
            if status == 0 and result.exists():
                return json.loads(result.read_text(encoding="utf-8"))
            said = (folder / "errors").read_text(encoding="utf-8", errors="replace").strip()
            return lost(job, status, said)


def lost(job: Job, status: int, said: str) -> dict[str, Any]:
    """What stands for the result of a job whose process died."""
    quiet = "it was killed, as where memory runs out" if status == -9 else "it said nothing"
    last = said.splitlines()[-1] if said else quiet
    sentence = f"Its process ended with status {status} ({as_clause(last)})."
    failed = {"status": Status.FAILED.value, "sentence": sentence}
    if job.choice is None:
        tried = [dataclasses.asdict(choice) for choice in job.trials]
        return {"trials": [{**choice, "score": None, **failed} for choice in tried]}
    return {**failed, "measures": {}}


def one_core() -> dict[str, str]:
    """The environment of a process that keeps to one core, whose times can be compared.

    An accelerator is left alone, which the processes could not share, unless JAX_PLATFORMS asks for
    it.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    return {
        **os.environ,
        "XLA_FLAGS": flags if _ONE_CORE in flags else f"{flags} {_ONE_CORE}".strip(),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS") or "cpu",
    }
