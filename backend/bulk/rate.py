"""How fast a bulk job gets on, written into its books for whoever watches."""

from __future__ import annotations

import time
from collections import deque

import redis

from backend.bulk.ledger import Ledger
from backend.queueing.affinity import clicks

_WINDOW_S = 60.0


class Rate:
    """Counts settled tasks over the last minute, the time worked, and the clicks served meanwhile."""

    def __init__(self, client: redis.Redis, ledger: Ledger) -> None:
        self._redis = client
        self._ledger = ledger
        self._begin = self._written = time.monotonic()
        self._seen: deque[tuple[float, int]] = deque()
        self._count = 0
        fields = ledger.fields()
        self._worked_before = float(fields.get("worked", 0))
        self._clicks_before = int(fields.get("clicks", 0)) - clicks(client)

    def count(self, computed: bool) -> None:
        """A task is settled; what is skipped costs nothing and says nothing about the rate."""
        self._count += computed

    def write(self, over: bool = False) -> None:
        now = time.monotonic()
        self._seen.append((now, self._count))
        while now - self._seen[0][0] > _WINDOW_S:
            self._seen.popleft()
        since, before = self._seen[0]
        # from the beginning of this run, while it is shorter than the window
        if now - self._begin < _WINDOW_S:
            since, before = self._begin, 0
        rate = 0.0 if over else (self._count - before) / max(now - since, 0.1)
        self._ledger.note(
            rate=round(rate, 3),
            worked=round(self._worked_before + now - self._begin, 1),
            clicks=self._clicks_before + clicks(self._redis),
        )
