"""How many requests may wait at once: whoever comes then is told so, while there are threads left to tell it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from backend.errors import QueueFull


class Seats:
    """Seven of eight threads may wait for a worker; safe to use from many threads.

    Args:
        threads: that serve requests.
    """

    def __init__(self, threads: int) -> None:
        self._count = max(1, threads - max(1, threads // 8))
        self._free = threading.BoundedSemaphore(self._count)

    @contextmanager
    def taken(self) -> Iterator[None]:
        """While a request waits. Raises QueueFull where as many wait as may."""
        if not self._free.acquire(blocking=False):
            raise QueueFull(f"{self._count} requests are waiting here: try again in a moment, or start more workers")
        try:
            yield
        finally:
            self._free.release()
