"""What a process that runs for months asks of glibc, which by itself keeps nearly all memory that it ever had.

Its threads would share up to eight heaps for each core, and what was freed in one is no use to the others; and what is
free in the middle of a heap goes back to the system only when somebody asks for it.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

_ARENA_MAX = -8  # M_ARENA_MAX of malloc.h
_HEAPS = 2
_EVERY_S = 60.0

_KERNELS = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256", "LRU_CACHE_CAPACITY": "256"}
"""Of oneDNN and of torch's layer above it: both would keep 1024 kernels, one for each shape, up to 0.4 MB each."""


def few_heaps() -> bool:
    """All threads share two heaps, unless MALLOC_ARENA_MAX says how many; to be called before there are threads.

    False where the environment says it, or this is not glibc.
    """
    libc = _libc()
    return libc is not None and "MALLOC_ARENA_MAX" not in os.environ and bool(libc.mallopt(_ARENA_MAX, _HEAPS))


def few_kernels() -> None:
    """oneDNN keeps fewer kernels, unless the environment says how many; to be called before torch is imported."""
    for name, count in _KERNELS.items():
        os.environ.setdefault(name, count)


def give_back() -> bool:
    """Give the system what is free in the heaps: some milliseconds. False where nothing was, or this is not glibc."""
    libc = _libc()
    return libc is not None and bool(libc.malloc_trim(0))


def peak_bytes() -> int:
    """The most memory that this process ever had; getrusage begins with that of the program which started it."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class Tidy:
    """Gives back at most once a minute, whenever it is convenient to whoever calls."""

    def __init__(self, every_s: float = _EVERY_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._every_s = every_s
        self._clock = clock
        self._last = clock()

    def look(self) -> bool:
        """Give back, if it is time; whether it was."""
        if self._clock() - self._last < self._every_s:
            return False
        give_back()
        self._last = self._clock()
        return True


@lru_cache(maxsize=1)
def _libc() -> Any:
    """The C library with these two functions, or None (musl, macOS)."""
    try:
        libc = ctypes.CDLL(None)
        return libc if libc.mallopt and libc.malloc_trim else None
    except (AttributeError, OSError, TypeError):
        return None
