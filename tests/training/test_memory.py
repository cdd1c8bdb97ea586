"""Freed memory goes back to the operating system."""

import ctypes
import pathlib
import platform
import re

import pytest

from loopwm.training import memory

PIECES, PIECE = 4000, 50_000  # 200 MB in pieces too small to be mapped on their own


def resident() -> int:
    """Resident memory of this process in bytes."""
    found = re.search(r"VmRSS:\s+(\d+) kB", pathlib.Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found.group(1))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can")
def test_freed_pieces_go_back():
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    memory.give_back_freed()
    pieces = [libc.malloc(PIECE) for _ in range(PIECES)]
    for piece in pieces:
        ctypes.memset(piece, 1, PIECE)
    # The last piece stays, so that nothing before it is given back by itself.
    for piece in pieces[:-1]:
        libc.free(piece)
    kept = resident()
    assert memory.give_back_freed()
    assert kept - resident() > PIECES * PIECE / 2
    libc.free(pieces[-1])


def test_other_systems_keep_theirs(monkeypatch):
    class Library:
        pass

    memory._trim.cache_clear()
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: Library())
    assert memory.give_back_freed() is False
    memory._trim.cache_clear()
