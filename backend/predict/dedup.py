"""The same question asked twice at once is worked on once."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager

import redis

_KEY = "pallas:asked:"
_ECHO_S = 2  # how long after an answer the same question still counts as its echo
_STORED_S = 0.3  # what Label Studio needs to store the first answer before the second asker reads the database
_LOOK_S = 0.05


class Dedup:
    """Who asks first works; who asks the same meanwhile waits until the answer is out."""

    def __init__(self, client: redis.Redis, longest_s: float) -> None:
        self._redis = client
        self._longest_s = longest_s

    def begin(self, question: str) -> AbstractContextManager[None] | None:
        """A block to work in for who is first; None, after the first has answered, for everybody else."""
        key = _KEY + question
        if self._redis.set(key, "busy", nx=True, ex=round(self._longest_s) + 1):
            return self._working(key)
        until = time.monotonic() + self._longest_s
        while self._redis.get(key) == b"busy" and time.monotonic() < until:
            time.sleep(_LOOK_S)
        time.sleep(_STORED_S)
        return None

    @contextlib.contextmanager
    def _working(self, key: str) -> Iterator[None]:
        try:
            yield
        except BaseException:
            # nobody was answered: the next who asks tries again
            self._redis.delete(key)
            raise
        self._redis.set(key, "done", ex=_ECHO_S)
