"""Which worker holds which picture's embedding, and which are busy: a click goes to the warm one where it can."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import redis

from backend.presence import Sign

_HELD = "pallas:held:"
_BUSY = "pallas:busy"
_CLICKS = "pallas:clicks"

ENCODE_STAT = "encode_seconds"
"""In a worker's sign: what encoding one picture costs it, a running mean."""


class Affinity:
    """What the workers say of themselves in Redis, and where the front sends a click because of it."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def busy(self, worker: str) -> None:
        """The worker has begun a job."""
        self._redis.sadd(_BUSY, worker)

    def free(self, worker: str, pictures: Iterable[str], held_s: float, click: bool = False) -> None:
        """The worker has ended its jobs, perhaps a click's, and holds some pictures, believed for held_s seconds."""
        pipe = self._redis.pipeline(transaction=False)
        pipe.srem(_BUSY, worker)
        if click:
            pipe.incr(_CLICKS)
        for picture in pictures:
            if held_s >= 1:
                pipe.set(_key(picture), worker, ex=round(held_s))
        pipe.execute()

    def choose(self, picture: str, signs: Sequence[Sign]) -> Sign | None:
        """The worker to ask first; None where any will do.

        That is the one which holds the picture, if it is free, or if all the others are busy too.
        """
        ready = {sign.name: sign for sign in signs if sign.state == "ready"}
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
        return warm if warm.name not in busy or ready.keys() <= busy else None


def clicks(client: redis.Redis) -> int:
    """How many clicks all workers have served so far."""
    return int(client.get(_CLICKS) or 0)


def patience_s(sign: Sign) -> float:
    """How long a click may wait for this worker before any other may take it: what encoding the picture would cost."""
    return sign.stats.get(ENCODE_STAT, 0.0)


def forget(client: redis.Redis, worker: str) -> None:
    """A worker has ended: it is not busy any more."""
    client.srem(_BUSY, worker)


def _key(picture: str) -> str:
    return _HELD + hashlib.sha256(picture.encode()).hexdigest()[:32]
