"""A client of the configured Redis, and what to tell about its errors."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import tempfile
from pathlib import Path

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from backend.errors import QueueDown
from backend.settings import Settings

log = logging.getLogger(__name__)

_RETRY_EVERY_S = 1.0


_SOCKET_PATH_LIMIT = 100  # bytes; the kernel's is 108 with the closing zero


def connect(settings: Settings, patience_s: float | None = 2.0, outage_s: float = 0.0) -> redis.Redis:
    """A client of the configured Redis; it connects when first used.

    Args:
        settings: says which Redis.
        patience_s: how long one command may take; None for connections that block on purpose.
        outage_s: how long to try again where Redis does not answer; by default not at all, since who is asked must be
            able to answer "the queue is down" at once.
    """
    retry = Retry(ExponentialBackoff(cap=_RETRY_EVERY_S, base=0.1), round(outage_s / _RETRY_EVERY_S))
    if settings.redis_url is not None:
        return redis.Redis.from_url(
            settings.redis_url.get_secret_value(),
            socket_timeout=patience_s,
            socket_connect_timeout=2.0,
            retry=retry,
            health_check_interval=30,
        )
    return redis.Redis(
        unix_socket_path=str(socket_path(settings)), socket_timeout=patience_s, retry=retry, socket_connect_timeout=2.0
    )


def queue_down(error: redis.RedisError) -> QueueDown:
    """What to tell about an error of Redis: what is wrong, and what to do."""
    text = str(error)
    if isinstance(error, redis.BusyLoadingError):
        return QueueDown("the queue (Redis) is still reading its data: try again in a moment")
    if isinstance(error, redis.OutOfMemoryError) or text.startswith("OOM"):
        return QueueDown("the queue (Redis) is out of memory: raise its maxmemory, or wait until jobs are done")
    if "MISCONF" in text or "No space left" in text:
        return QueueDown("the queue (Redis) cannot write to its disk: make room there, then it goes on by itself")
    if isinstance(error, redis.AuthenticationError) or text.startswith(("NOAUTH", "NOPERM", "WRONGPASS")):
        return QueueDown("the queue (Redis) refuses us: is the password in REDIS_URL right, and may its user do all?")
    if isinstance(error, redis.ReadOnlyError):
        return QueueDown("the queue (Redis) is a read-only replica: put the primary's address into REDIS_URL")
    return QueueDown("the queue (Redis) cannot be reached: start it, or correct REDIS_URL")


def socket_path(settings: Settings) -> Path:
    """Where the embedded Redis listens: in the state folder, or in a private one where that path is too long."""
    path = settings.state_dir.resolve() / "redis.sock"
    if len(os.fsencode(path)) <= _SOCKET_PATH_LIMIT:
        return path
    name = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"pallas-{os.getuid()}-{name}" / "redis.sock"


def is_up(settings: Settings) -> bool:
    """Whether the configured Redis answers a PING."""
    with contextlib.closing(connect(settings)) as client:
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False
