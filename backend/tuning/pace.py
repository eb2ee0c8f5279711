"""When a run may go on: after everything that anybody waits for, and not once it was asked to stop."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

import redis

from backend.queueing import queues
from backend.queueing.queues import BATCH, BULK, INTERACTIVE, LEARN

_LOOK_S = 0.2
_WAIT_S = 0.1
_BEFORE = (INTERACTIVE, BATCH, BULK, LEARN)


class Stopped(Exception):
    """The run was asked to stop; it has saved itself."""


class Pace:
    """Called between two steps of a run.

    Args:
        client: Redis.
        stop: set by a signal.
        waiting: called with True when it begins to wait for others, with False when it goes on.
    """

    def __init__(self, client: redis.Redis, stop: threading.Event, waiting: Callable[[bool], None]) -> None:
        self._redis = client
        self._stop = stop
        self._tell = waiting
        self._looked = 0.0
        self._parent = os.environ.get("PALLAS_PARENT")

    def __call__(self) -> None:
        """Wait while others are served. Raises Stopped."""
        if self._stop.is_set():
            raise Stopped
        if time.monotonic() - self._looked < _LOOK_S:
            return
        waits = False
        while self._busy():
            if not waits:
                self._tell(waits := True)
            if self._stop.wait(_WAIT_S) or self._orphaned():
                raise Stopped
        if waits:
            self._tell(False)
        if self._orphaned():
            raise Stopped
        self._looked = time.monotonic()

    def _busy(self) -> bool:
        try:
            return any(queues.make_queue(name, self._redis).count for name in _BEFORE) or any(
                queues.running(self._redis, name) for name in _BEFORE
            )
        except redis.RedisError:
            # nobody can be served meanwhile
            return False

    def _orphaned(self) -> bool:
        """Whether the worker that began this program is gone."""
        return self._parent is not None and int(self._parent) != os.getppid()
