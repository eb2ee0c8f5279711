"""A right that one program at a time has, in Redis: redis-py's lock, which knows its holder by a token."""

from __future__ import annotations

import contextlib
import logging
import threading
import uuid
from collections.abc import Iterator

import redis
from redis.exceptions import LockError, LockNotOwnedError

log = logging.getLogger(__name__)


class Lease:
    """One holder's side of it; safe to use from several threads.

    Args:
        client: Redis.
        key: the right.
        seconds: after which it is free again if its holder does not renew it.
        me: the holder; the same one may take it again, also where the answer to an earlier try was lost.
    """

    def __init__(self, client: redis.Redis, key: str, seconds: float, me: str | None = None) -> None:
        self._me = (me or uuid.uuid4().hex).encode()
        self._seconds = seconds
        self._lock = client.lock(key, timeout=seconds, thread_local=False)

    def hold(self) -> bool:
        """Take it or renew it; False where another has it."""
        return self.renew() or self._lock.acquire(blocking=False, token=self._me.decode())

    def renew(self) -> bool:
        """For its whole time from now on; False where it is not ours any more, as after an outage."""
        self._lock.local.token = self._me
        try:
            return bool(self._lock.reacquire())
        except LockNotOwnedError:
            return False

    def release(self) -> None:
        """Free it, if it is ours."""
        self._lock.local.token = self._me
        with contextlib.suppress(LockError):
            self._lock.release()

    @contextlib.contextmanager
    def renewed(self) -> Iterator[None]:
        """While the block runs it does not lapse, however long that takes."""
        over = threading.Event()

        def renew() -> None:
            while not over.wait(self._seconds / 3):
                try:
                    self.renew()
                except redis.RedisError as error:
                    log.debug("a lease cannot be renewed (%s)", type(error).__name__)

        threading.Thread(target=renew, name="lease", daemon=True).start()
        try:
            yield
        finally:
            over.set()
