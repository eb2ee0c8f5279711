"""Which picture is being encoded by which worker just now, so that no other encodes it too but waits for that one.

A lock is a list in Redis: who finds it empty encodes, who comes later adds a name and is handed the embedding through
Redis when it is ready. Where the encoder dies or is slow, who waits goes on alone.
"""

from __future__ import annotations

import logging
import uuid
from typing import TYPE_CHECKING, Any

import redis

from backend.queueing.connection import pieces

if TYPE_CHECKING:
    from model import Embedding

_LOCK = "pallas:encoding:"
_HANDED = "pallas:handed:"
_HANDED_S = 30
_LEAST_S = 0.01

log = logging.getLogger(__name__)


class EmbeddingLocks:
    """One worker's side of it. Without Redis every picture is simply its own to encode.

    Args:
        client: a connection that may block.
        model_version: embeddings of other models are other embeddings.
        wait_s: a lock is forgotten after this long.
    """

    def __init__(self, client: redis.Redis, model_version: str, wait_s: int) -> None:
        self._redis = client
        self._version = model_version
        self._wait_s = wait_s

    def take(self, content: str) -> str | None:
        """None if the picture is this worker's to encode, which then calls `done`; else a ticket for `wait`."""
        ticket = uuid.uuid4().hex
        try:
            pipe = self._redis.pipeline()
            pipe.rpush(self._key(content), ticket)
            pipe.expire(self._key(content), self._wait_s)
            place, _ = pipe.execute()
        except redis.RedisError as error:
            log.warning("Redis does not answer (%s): pictures are encoded without asking", type(error).__name__)
            return None
        return None if place == 1 else ticket

    def done(self, content: str, embedding: Embedding | None) -> None:
        """The picture is encoded, or could not be: hand it to those who wait."""
        try:
            pipe = self._redis.pipeline()
            pipe.lrange(self._key(content), 1, -1)
            pipe.delete(self._key(content))
            tickets, _ = pipe.execute()
            if not tickets:
                return
            data = embedding.to_bytes() if embedding is not None else b""
            for ticket in tickets:
                key = _HANDED + ticket.decode()
                pipe.rpush(key, data)
                pipe.expire(key, _HANDED_S)
            pipe.execute()
        except redis.RedisError as error:
            log.warning("Redis does not answer (%s): who waits for a picture encodes it", type(error).__name__)

    def wait(self, content: str, ticket: str, seconds: float) -> Embedding | None:
        """The embedding, on the CPU; None if it does not come within so many seconds."""
        from model import Embedding

        try:
            found: Any = None
            for piece_s in pieces(max(seconds, _LEAST_S)):
                found = self._redis.blpop([_HANDED + ticket], piece_s)
                if found is not None:
                    break
            if found is None:
                log.warning("a picture that another worker encodes did not come within %.1f s", seconds)
                # nobody else shall wait for one that may be gone
                self._redis.delete(self._key(content))
        except redis.RedisError as error:
            log.warning("Redis does not answer (%s): the picture is encoded here", type(error).__name__)
            return None
        if found is None or not found[1]:
            return None
        try:
            return Embedding.from_bytes(found[1])
        except ValueError as error:
            # of a worker before an upgrade
            log.warning("what another worker encoded cannot be read (%s): the picture is encoded here", error)
            return None

    def _key(self, content: str) -> str:
        return f"{_LOCK}{self._version}:{content}"
