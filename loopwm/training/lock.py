"""One process at a time in a folder."""

import contextlib
import os
import pathlib
from collections.abc import Iterator

from loopwm.errors import UsageError


@contextlib.contextmanager
def alone(folder: pathlib.Path, taken: str) -> Iterator[None]:
    """Keeps other processes that ask out of a folder; the system lets go of it in any case.

    Systems and file systems without such locks keep nobody out.

    Args:
        folder: the folder, in which the lock leaves nothing.
        taken: the sentence for whoever comes second.

    Raises:
        UsageError: another process is in it.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    held = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(taken) from error
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(held)
