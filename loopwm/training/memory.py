"""Memory that the process has freed and the operating system does not have back."""

import contextlib
import ctypes
import functools
import gc
from collections.abc import Callable


@functools.cache
def _trim() -> Callable[[int], int] | None:
    """glibc's `malloc_trim`; other C libraries have none (macOS, Windows, musl)."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        return ctypes.CDLL(None).malloc_trim
    return None


def give_back_freed() -> bool:
    """Frees what nobody holds, and gives it back to the operating system where the C library can.

    The compiler frees hundreds of MB, episodes and checkpoints some MB each time, of which cycles
    wait for Python's collector. glibc keeps such pieces as long as something behind them is in use,
    so that the resident memory of a long run would grow although the run holds no more than
    before. Takes some tenths of a second.

    Returns:
        Whether any was given back.
    """
    gc.collect()
    trim = _trim()
    return trim is not None and bool(trim(0))
