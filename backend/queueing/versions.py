"""Jobs of another version of Pallas, as there are during an upgrade: put back until a worker understands them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis

from backend.job import FUNCTION
from backend.queueing.heartbeat import WorkerStatus
from backend.queueing.queues import Job, asked, job_key, make_queue

_KEY = "pallas:parked"


def version_of(job: Job) -> int | None:
    """Of a job's payload; None where it is no job of ours, whatever else somebody wrote into Redis."""
    found = asked(job)
    try:
        name, (payload,) = found or ("", ())
        version = payload["version"]
        return version if name == FUNCTION and isinstance(version, int) else None
    except (LookupError, TypeError, ValueError):
        return None


def put_back(client: redis.Redis, job: Job, version: int, workers: Sequence[WorkerStatus]) -> None:
    """Take a job that was just taken out of its queue back into it, or aside where no worker knows its version."""
    if any(worker.payload == version for worker in workers):
        # at the end, so that whoever cannot do it comes to its own jobs
        client.rpush(make_queue(job.origin, client).key, job.id)
    else:
        client.rpush(_KEY, f"{version} {job.id}")


def ids(client: redis.Redis) -> set[str]:
    """Of the jobs that were taken aside."""
    return {job_id for _, job_id, _ in _entries(client)}


def release(client: redis.Redis, workers: Sequence[WorkerStatus]) -> int:
    """Move the jobs that a worker which is alive understands into their queues; returns how many."""
    understood = {worker.payload for worker in workers}
    count = 0
    for version, job_id, entry in _entries(client):
        origin = client.hget(job_key(job_id), "origin")
        # what nobody waits for any longer has expired meanwhile
        if (origin is None or version in understood) and client.lrem(_KEY, 1, entry) and isinstance(origin, bytes):
            client.rpush(make_queue(origin.decode(), client).key, job_id)
            count += 1
    return count


def _entries(client: redis.Redis) -> list[tuple[int, str, str]]:
    """Version, id, and the entry itself, oldest first."""
    found: list[Any] = client.lrange(_KEY, 0, -1)
    entries = [entry.decode() for entry in found]
    return [(int(entry.split(" ", 1)[0]), entry.split(" ", 1)[1], entry) for entry in entries]
