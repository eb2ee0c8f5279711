"""Which worker holds which picture's embedding, and which are busy: a click goes to the warm one where it can."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import redis

from backend.queueing.heartbeat import WorkerStatus

_HELD = "pallas:held:"
_BUSY = "pallas:busy"
_CLICKS = "pallas:clicks"

ENCODE_STAT = "encode_seconds"
"""In a worker's status: what encoding one picture costs it, a running mean."""

STEP_STAT = "step_seconds"
"""In a worker's status: how long it is busy at a time, a running mean."""


class Affinity:
    """What the workers say of themselves in Redis, and where the front sends a click because of it."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    @staticmethod
    def busy(worker: str, client: redis.Redis) -> None:
        """The worker has begun a job; said by the pipeline that notes the job's begin."""
        client.sadd(_BUSY, worker)

    def free(self, worker: str, pictures: Iterable[str], held_s: float, clicks: int = 0) -> None:
        """The worker has ended its jobs, those of so many clicks; it holds pictures, believed for held_s seconds."""
        pipe = self._redis.pipeline(transaction=False)
        pipe.srem(_BUSY, worker)
        if clicks:
            pipe.incrby(_CLICKS, clicks)
        for picture in pictures:
            if held_s >= 1:
                pipe.set(_key(picture), worker, ex=round(held_s))
        pipe.execute()

    def choose(self, picture: str, workers: Sequence[WorkerStatus]) -> WorkerStatus | None:
        """The worker to ask first; None where any will do.

        That is the one which holds the picture, if it is free; or if all others are busy too, and it is likely to be
        done before another could have encoded the picture.
        """
        ready = {worker.name: worker for worker in workers if worker.state == "ready"}
        if len(ready) < 2:
            return None
        pipe = self._redis.pipeline(transaction=False)
        pipe.get(_key(picture))
        pipe.smembers(_BUSY)
        holder, names = pipe.execute()
        warm = ready.get(holder.decode()) if holder is not None else None
        if warm is None:
            return None
        busy = {name.decode() for name in names}
        if warm.name not in busy:
            return warm
        wait = ready.keys() <= busy and worth_waiting(len(ready), warm.stats.get(STEP_STAT, 0.0), patience_s(warm))
        return warm if wait else None


def worth_waiting(workers: int, step_s: float, encode_s: float) -> bool:
    """Whether a click among so many busy workers had better wait for the one that holds its picture.

    That one is done after half a step on average; the first of all after step / (workers + 1), but must then most
    likely encode the picture.
    """
    return step_s / 2 <= step_s / (workers + 1) + encode_s * (1 - 1 / workers)


def clicks(client: redis.Redis) -> int:
    """How many clicks all workers have served so far."""
    return int(client.get(_CLICKS) or 0)


def patience_s(worker: WorkerStatus) -> float:
    """How long a click may wait for this worker before any other may take it: what encoding the picture would cost."""
    return worker.stats.get(ENCODE_STAT, 0.0)


def forget(client: redis.Redis, worker: str) -> None:
    """A worker has ended: it is not busy any more."""
    client.srem(_BUSY, worker)


def _key(picture: str) -> str:
    return _HELD + hashlib.sha256(picture.encode()).hexdigest()[:32]
