"""Backends by name."""

from loopwm.comparison.backends import AbstractBackend, LocalBackend
from loopwm.errors import UsageError

BACKENDS = ("local", "ray")


def choose_backend(name: str, jobs: int) -> AbstractBackend:
    """The backend of that name.

    Args:
        name: local or ray.
        jobs: processes side by side, of a local one.

    Raises:
        UsageError: there is no such backend, its package is missing, or jobs is not positive.
    """
    if jobs < 1:
        raise UsageError(f"--jobs is {jobs}; give at least 1.")
    if name not in BACKENDS:
        raise UsageError(f"There is no backend '{name}'; give one of {', '.join(BACKENDS)}.")
    if name == "local":
        return LocalBackend(jobs)
    from loopwm.comparison.ray_backend import RayBackend

    return RayBackend()
