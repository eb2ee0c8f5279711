"""`python -m backend worker --drain`: workers finish what they do, take nothing new, and end."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

import redis

from backend.errors import BadRequest, JobTimeout
from backend.queueing import heartbeat

_KEY = "pallas:drain:"
_STANDS_S = 3600


def wanted(client: redis.Redis, worker: str) -> bool:
    """Whether this worker was asked to end."""
    return bool(client.exists(_KEY + worker))


def drain(client: redis.Redis, names: Collection[str], wait_s: float, say: Callable[[str], None]) -> None:
    """Ask workers to end, and wait until they have.

    Args:
        client: Redis.
        names: of the workers; empty for all that are alive.
        wait_s: for all of them together.
        say: is told when one has ended.

    Raises:
        BadRequest: there is no such worker.
        JobTimeout: one is still there.
    """
    alive = {worker.name for worker in heartbeat.everybody(client)}
    if unknown := sorted(set(names) - alive):
        there = ", ".join(sorted(alive)) or "none"
        raise BadRequest(f"no worker {', '.join(unknown)} is running; there is: {there}")
    waiting = set(names) or alive
    for name in waiting:
        client.set(_KEY + name, 1, ex=_STANDS_S)
    until = time.monotonic() + wait_s
    while waiting:
        gone = waiting - {worker.name for worker in heartbeat.everybody(client)}
        for name in sorted(gone):
            say(f"worker {name} has ended")
        waiting -= gone
        if waiting and time.monotonic() > until:
            raise JobTimeout(f"still there after {wait_s:.0f} s: {', '.join(sorted(waiting))}; a job may be long")
        time.sleep(0.2)
