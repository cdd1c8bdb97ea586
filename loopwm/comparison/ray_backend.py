"""Jobs on a Ray cluster: the one that RAY_ADDRESS names, or one on this machine."""

import importlib
import os
from collections.abc import Sequence
from typing import Any

from loopwm.comparison.backends import AbstractBackend, Results, lost, one_core
from loopwm.comparison.jobs import Job, perform
from loopwm.errors import UsageError
from loopwm.run import enable_compile_cache


class RayBackend(AbstractBackend):
    """Each job in a Ray task with one CPU and a process of its own.

    Tasks on other machines log their data anew where the folder is not shared; the same seed gives
    the same data.
    """

    def __init__(self):
        """Finds Ray.

        Raises:
            UsageError: it is not installed.
        """
        try:
            self.ray: Any = importlib.import_module("ray")
        except ImportError as error:
            raise UsageError(
                'Backend ray needs Ray; install it with pip install "loopwm[ray]".'
            ) from error

    def run(self, jobs: Sequence[Job]) -> Results:
        """Does the jobs on the cluster."""
        ray = self.ray
        if not ray.is_initialized():
            # The variables are those of local jobs, so that times can be compared.
            names = ("XLA_FLAGS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "JAX_PLATFORMS")
            variables = {name: one_core()[name] for name in names}
            ray.init(address=os.environ.get("RAY_ADDRESS"), runtime_env={"env_vars": variables})
        task = ray.remote(num_cpus=1, max_calls=1, max_retries=0)(_perform_in_task)
        pending = {task.remote(job): job for job in jobs}
        while pending:
            (done, *_), _ = ray.wait(list(pending), num_returns=1)
            job = pending.pop(done)
            try:
                result = ray.get(done)
            except ray.exceptions.RayError as error:
                result = lost(job, 1, str(error))
            yield job, result


def _perform_in_task(job: Job) -> dict[str, Any]:
    enable_compile_cache()  # cells that differ in their seed alone are one program
    return perform(job)
