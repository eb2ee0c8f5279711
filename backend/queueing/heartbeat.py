"""Who is there: the status of each worker in Redis, renewed by its heartbeat, which expires by Redis' own clock."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import redis

_KEY = "pallas:worker:"
_NAMES = "pallas:workers"
_VERSION_KEY = "pallas:model_version"

# By a set of names: a scan would walk through every job in Redis at each click. In one go, since each click asks.
_EVERYBODY = """
local found = {}
for _, name in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  local status = redis.call('GET', ARGV[1] .. name)
  if status then found[#found + 1] = status else redis.call('SREM', KEYS[1], name) end
end
return found
"""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkerStatus:
    """What a worker says of itself.

    Attributes:
        name: the rq worker's name.
        state: "loading" or "ready".
        model: as in the settings.
        model_version: empty until the model is loaded.
        device: e.g. "cuda:0".
        pid: process id, on its host.
        host: its machine's name.
        stats: numbers of the moment, for /metrics.
        payload: the version of jobs that it understands.
    """

    name: str
    state: str
    model: str
    model_version: str = ""
    device: str = ""
    pid: int = 0
    host: str = ""
    stats: dict[str, float] = field(default_factory=dict)
    payload: int = 0


def everybody(client: redis.Redis) -> list[WorkerStatus]:
    """The workers that are alive."""
    found: Any = client.register_script(_EVERYBODY)([_NAMES], [_KEY])
    return sorted(map(_parse, found), key=lambda status: status.name)


def members(client: redis.Redis, key: str) -> set[str]:
    """Of a set of names in Redis."""
    return {name.decode() if isinstance(name, bytes) else name for name in client.smembers(key)}


def _parse(value: bytes | str) -> WorkerStatus:
    # a worker of another version may say more
    known = {name: part for name, part in json.loads(value).items() if name in WorkerStatus.__dataclass_fields__}
    return WorkerStatus(**known)


def published_version(client: redis.Redis) -> str | None:
    """The version of the model that the last worker to become ready has loaded, also after that worker has gone."""
    value = client.get(_VERSION_KEY)
    return value.decode() if isinstance(value, bytes) else None


def forget(client: redis.Redis, name: str) -> None:
    """Remove a worker's status at once, where its end is known."""
    client.delete(_KEY + name)
    client.srem(_NAMES, name)


class Heartbeat:
    """Renews a worker's status from a thread, so that a long job does not look like a death.

    Args:
        client: Redis.
        every_s: between two beats.
        ttl_s: how long a status lasts.
        on_beat: called before each beat, also while Redis is away; its errors are logged.
        stats: called at each beat, for the status.
    """

    def __init__(
        self,
        client: redis.Redis,
        every_s: float,
        ttl_s: int,
        on_beat: Callable[[], None],
        stats: Callable[[], dict[str, float]] = dict,
    ) -> None:
        self._client = client
        self._every_s = every_s
        self._ttl_s = ttl_s
        self._on_beat = on_beat
        self._stats = stats
        self._stop = threading.Event()
        self._status: WorkerStatus | None = None
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self, status: WorkerStatus) -> None:
        self.publish(status)
        self._thread.start()

    def publish(self, status: WorkerStatus) -> None:
        """Publish a new status now, and from now on."""
        self._status = status
        if status.model_version:
            self._client.set(_VERSION_KEY, status.model_version)
        self._beat(status)

    def stop(self) -> None:
        self._stop.set()
        if self._status is not None:
            try:
                forget(self._client, self._status.name)
            except redis.RedisError:
                log.warning("could not take back the worker's status: it expires in %d s", self._ttl_s)

    def _beat(self, status: WorkerStatus) -> None:
        self._client.set(_KEY + status.name, json.dumps(asdict(replace(status, stats=self._stats()))), ex=self._ttl_s)
        self._client.sadd(_NAMES, status.name)

    def _renew(self) -> None:
        assert self._status is not None
        self._beat(self._status)

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            for part in (self._on_beat, self._renew):
                try:
                    part()
                except redis.RedisError as error:
                    log.warning("heartbeat: Redis does not answer (%s)", type(error).__name__)
                except Exception:
                    log.exception("heartbeat failed")
