"""The same question asked twice at once is worked on once."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager

import redis
from redis.exceptions import LockError
from redis.lock import Lock

_KEY = "pallas:asked:"
_DONE = "pallas:asked:done:"
_ECHO_S = 2  # how long after an answer the same question still counts as its echo
_STORED_S = 0.3  # what Label Studio needs to store the first answer before the second asker reads the database
_LOOK_S = 0.05


class Dedup:
    """Who asks first works; who asks the same meanwhile waits until the answer is out."""

    def __init__(self, client: redis.Redis, longest_s: float) -> None:
        self._redis = client
        self._longest_s = longest_s

    def begin(self, question: str) -> AbstractContextManager[None] | None:
        """A block to work in for who is first, or next after one who failed; None, after the answer, for all others."""
        lock = self._redis.lock(_KEY + question, timeout=self._longest_s + 1, sleep=_LOOK_S, thread_local=False)
        if not lock.acquire(blocking_timeout=self._longest_s):
            return None
        if not self._redis.exists(_DONE + question):
            return self._working(lock, question)
        _release(lock)
        time.sleep(_STORED_S)
        return None

    @contextlib.contextmanager
    def _working(self, lock: Lock, question: str) -> Iterator[None]:
        try:
            yield
            self._redis.set(_DONE + question, 1, ex=_ECHO_S)
        finally:
            _release(lock)


def _release(lock: Lock) -> None:
    with contextlib.suppress(LockError):  # it lapsed: the work took longer than anybody waits
        lock.release()
