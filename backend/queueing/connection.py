"""A client of the configured Redis, and what to tell about its errors."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
import time
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from backend.errors import QueueDown
from backend.settings import Settings

BLOCK_S = 5
"""A command that blocks on purpose does so in pieces of so many seconds at most: a connection whose other end is gone
is noticed soon after.
"""

PATIENCE_S = 2.0
"""How long an ordinary command may take."""

SOON_S = 0.7
"""The same for a look on which somebody waits with a limit of a second, as Label Studio does at its health check."""

ANSWER_S = 10
"""How long the answer to a command that blocks may be late."""

_WHERE = re.compile(r"connecting to ([\w.\-\[\]:]+?)\.? ")
_RETRY_EVERY_S = 1.0
_LEAST_S = 0.001
_MOST_CONNECTIONS = 1 << 16
_SOCKET_PATH_LIMIT = 100  # bytes; the kernel's is 108 with the closing zero


class State(Enum):
    """Of a Redis, as a PING sees it."""

    UP = "it answers"
    LOADING = "it is reading its data"
    SILENT = "it listens, but does not answer"
    AWAY = "it cannot be reached"


def connect(settings: Settings, blocking: bool = False, outage_s: float = 0.0, soon: bool = False) -> redis.Redis:
    """A client of the configured Redis; it connects when first used, and waits for no answer for ever.

    Args:
        settings: says which Redis.
        blocking: for commands that block on purpose, for BLOCK_S at most.
        outage_s: how long to try again where Redis does not answer; by default not at all, since who is asked must be
            able to answer "the queue is down" at once.
        soon: for a look that is worth no more than SOON_S.
    """
    patience_s = SOON_S if soon else PATIENCE_S
    options: dict[str, Any] = {
        "socket_timeout": BLOCK_S + ANSWER_S if blocking else patience_s,
        "socket_connect_timeout": patience_s,
        "retry": Retry(ExponentialBackoff(cap=_RETRY_EVERY_S, base=0.1), round(outage_s / _RETRY_EVERY_S)),
        # a connection that was idle while the other end went away without a word
        "health_check_interval": 30,
        # one for each thread that waits; redis-py's own limit is a hundred, and then says that Redis is away
        "max_connections": _MOST_CONNECTIONS,
    }
    if settings.redis_url is None:
        return redis.Redis(unix_socket_path=str(socket_path(settings)), **options)
    url = settings.redis_url.get_secret_value()
    if not url.startswith("unix:"):
        options["socket_keepalive"] = True
    return redis.Redis.from_url(url, **options)


def pieces(seconds: float) -> Iterator[float]:
    """A wait of so many seconds, in pieces that a blocking command may take; none is 0, which would be for ever."""
    until = time.monotonic() + seconds
    left_s = seconds
    while True:
        yield min(max(left_s, _LEAST_S), BLOCK_S)
        left_s = until - time.monotonic()
        if left_s <= 0:
            return


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
    where = _WHERE.search(text)
    at = f" at {where[1]}" if where is not None else ""
    return QueueDown(f"the queue (Redis) cannot be reached{at}: start it, or correct REDIS_URL")


def address(settings: Settings) -> str:
    """Of an own Redis as people may read it: REDIS_URL without user and password."""
    parts = urlsplit(settings.redis_url.get_secret_value() if settings.redis_url is not None else "")
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def socket_path(settings: Settings) -> Path:
    """Where the embedded Redis listens: in the state folder, or in a private one where that path is too long."""
    path = settings.state_dir.resolve() / "redis.sock"
    if len(os.fsencode(path)) <= _SOCKET_PATH_LIMIT:
        return path
    name = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"pallas-{os.getuid()}-{name}" / "redis.sock"


def state_of(settings: Settings) -> State:
    """How the configured Redis is, within two seconds."""
    with contextlib.closing(connect(settings)) as client:
        try:
            client.ping()
            return State.UP
        except redis.BusyLoadingError:
            return State.LOADING
        except redis.TimeoutError:
            return State.SILENT
        except redis.RedisError:
            return State.AWAY
