"""Late predictions of batch requests: kept in Redis until they are in Label Studio, whichever program gets to it."""

from __future__ import annotations

import hashlib
import logging
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import redis
from pydantic import BaseModel, ValidationError

from backend.label_studio.protocol import LabelStudioTask
from backend.settings import Settings

_PENDING = "pallas:late:task"
_DUE = "pallas:late:due"
_CONFIG = "pallas:late:config:"
_CONFIG_S = 7 * 86_400

log = logging.getLogger(__name__)


class Pending(BaseModel):
    """One task that somebody asked for and whose prediction Label Studio does not have yet."""

    project: str
    task: LabelStudioTask
    config: str
    request_id: str
    tries: int = 0
    deaths: int = 0

    @property
    def key(self) -> str:
        return f"{self.project}:{self.task.id}"


class LateQueue:
    """The list of such tasks, in Redis; times are by Redis' own clock."""

    def __init__(self, settings: Settings, client: redis.Redis) -> None:
        self._redis = client
        self.possible = settings.label_studio_url is not None and settings.label_studio_api_key is not None
        """Whether predictions can be stored through the API at all."""

    def expect(
        self, project: str, tasks: Sequence[LabelStudioTask], label_config: str, request_id: str, due_s: float
    ) -> None:
        """These are being worked on by the front that was asked; if nothing is heard for due_s seconds, by anybody."""
        config = hashlib.sha256(label_config.encode()).hexdigest()
        pipe = self._redis.pipeline()
        pipe.set(_CONFIG + config, label_config, ex=_CONFIG_S)
        for task in tasks:
            pending = Pending(project=project, task=task, config=config, request_id=request_id)
            self._put(pipe, pending, self._now() + due_s)
        pipe.execute()

    def settle(self, keys: Iterable[str]) -> None:
        """These are done with."""
        keys = list(keys)
        if keys:
            pipe = self._redis.pipeline()
            pipe.hdel(_PENDING, *keys)
            pipe.zrem(_DUE, *keys)
            pipe.execute()

    def hand_over(self, keys: Iterable[str]) -> None:
        """These are anybody's now."""
        due = dict.fromkeys(keys, self._now())
        if due:
            self._redis.zadd(_DUE, due, xx=True)

    def due(self, most: int) -> list[Pending]:
        """The first that are due."""
        keys: Any = self._redis.zrangebyscore(_DUE, "-inf", self._now(), start=0, num=most)
        found = []
        for key in keys:
            packed: Any = self._redis.hget(_PENDING, key)
            try:
                if packed is None:
                    raise ValueError("gone")
                found.append(Pending.model_validate_json(zlib.decompress(packed)))
            except (ValueError, ValidationError, zlib.error) as error:
                log.warning("a late prediction cannot be delivered (%s): it is dropped", type(error).__name__)
                self.settle([key.decode()])
        return found

    def is_due(self, key: str) -> bool:
        """Whether no front has taken it over again meanwhile."""
        due = self._redis.zscore(_DUE, key)
        return due is not None and due <= self._now()

    def later(self, pending: Pending, seconds: float) -> None:
        """Try again after so many seconds."""
        pipe = self._redis.pipeline()
        self._put(pipe, pending, self._now() + seconds)
        pipe.execute()

    def label_config(self, digest: str) -> str | None:
        text = self._redis.get(_CONFIG + digest)
        return text.decode() if isinstance(text, bytes) else None

    def count(self) -> int:
        return int(self._redis.hlen(_PENDING))

    def _put(self, pipe: redis.client.Pipeline, pending: Pending, due: float) -> None:
        pipe.hset(_PENDING, pending.key, zlib.compress(pending.model_dump_json().encode(), 1))
        pipe.zadd(_DUE, {pending.key: due})

    def _now(self) -> float:
        seconds, micros = self._redis.time()
        return float(seconds) + float(micros) / 1e6


def grace_s(settings: Settings) -> float:
    """How long after its own limit a front that is silent is taken for dead."""
    return settings.batch_patience_s + 5 * settings.heartbeat_s
