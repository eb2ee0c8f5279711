"""Which version answers for which project, in Redis, where fronts and workers of all machines look at each job."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from typing import Any

import redis

from backend.adapters.store import INPUT, InUse, Store
from backend.errors import VersionError
from backend.settings import Settings

log = logging.getLogger(__name__)

_USED = "pallas:versions"
_WEIGHTS = "pallas:version:"
_FAULTS = "pallas:versions:faults"
_MOST_FAULTS = 20


@dataclass(frozen=True)
class Entry:
    """Of one project; `base` is the model that its versions were learned on.

    `active` and `shadow` are names followed by # and a digest of the numbers: a name may come again.
    """

    base: str
    active: str | None = None
    shadow: str | None = None

    def name_for(self, base: str, asked: str = "", shadow_share: float = 0.0) -> str:
        """The version that answers a request, as `Entry` has it; empty where it is the base.

        Args:
            base: of the model that the workers have; versions of another one do not count.
            asked: names the request, so that the same one always goes to the same version.
            shadow_share: of the requests that a second version answers, 0..1.
        """
        if self.base != base:
            return ""
        if self.shadow and asked and _place(asked) < shadow_share:
            return self.shadow
        return self.active or ""


class Table:
    """Raises (every method): redis.RedisError."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def entry(self, project: str) -> Entry | None:
        """Of a project by its key in requests (`id.created`; empty: of a file)."""
        return _entry(self._redis.hget(_USED, project or INPUT))

    def weights(self, version: str) -> bytes | None:
        """The safetensors of a version in use, as `Entry` has it."""
        data = self._redis.get(_WEIGHTS + version)
        return data if isinstance(data, bytes) else None

    def publish(self, store: Store, project: str) -> InUse:
        """What the folder says of a project (`project-7`) is so from the next job on.

        Raises:
            VersionError: a version in use is damaged; what was in use stays. OSError.
        """
        state = store.in_use(project)
        adapters = [store.read(name) for name in (state.active, state.shadow) if name]
        if len({adapter.base for adapter in adapters}) > 1:
            raise VersionError(f"{state.active} and {state.shadow} were learned on different models: drop the shadow")
        marked = {adapter.name: f"{adapter.name}#{adapter.digest}" for adapter in adapters}
        now = Entry("", *(marked[name] if name else None for name in (state.active, state.shadow)))
        key = state.key or INPUT
        before = self.entry(state.key)
        pipe = self._redis.pipeline()
        for adapter in adapters:
            pipe.set(_WEIGHTS + marked[adapter.name], adapter.to_bytes())
            pipe.hdel(_FAULTS, adapter.name)
        if adapters:
            said = {"base": adapters[0].base, "active": now.active, "shadow": now.shadow}
            pipe.hset(_USED, key, json.dumps(said))
        else:
            pipe.hdel(_USED, key)
        pipe.execute()
        if before is not None:
            # jobs that still ask for it are answered by the base
            gone = {before.active, before.shadow} - {now.active, now.shadow} - {None}
            if gone:
                self._redis.delete(*(f"{_WEIGHTS}{name}" for name in gone))
        return state

    def publish_missing(self, settings: Settings) -> None:
        """What the folder has in use and Redis does not know, as after a Redis was emptied."""
        store = Store(settings)
        for project in store.projects():
            state = store.in_use(project)
            if (state.active or state.shadow) and self.entry(state.key) is None:
                try:
                    self.publish(store, project)
                except (VersionError, OSError) as error:
                    log.warning("the versions of %s are not used, the base answers: %s", project, error)
                    self.note_fault(state.active or str(state.shadow), str(error))

    def forget(self, number: int) -> None:
        """A project was deleted."""
        fields: Any = self._redis.hkeys(_USED)
        for key in (field.decode() for field in fields):
            if key.partition(".")[0] == str(number) and (found := self.entry(key)) is not None:
                names = [name for name in (found.active, found.shadow) if name]
                self._redis.hdel(_USED, key)
                self._redis.delete(*(f"{_WEIGHTS}{name}" for name in names))

    def used(self) -> dict[str, Entry]:
        """All projects that are not answered by the base alone, by key."""
        found: Any = self._redis.hgetall(_USED)
        entries = {key.decode(): _entry(value) for key, value in found.items()}
        return {key: entry for key, entry in entries.items() if entry is not None}

    def note_fault(self, name: str, why: str) -> None:
        """A version that cannot be used: the base answers in its place."""
        if int(self._redis.hlen(_FAULTS)) < _MOST_FAULTS:
            self._redis.hset(_FAULTS, name, why[:500])

    def faults(self) -> dict[str, str]:
        """Versions that cannot be used, and why."""
        found: Any = self._redis.hgetall(_FAULTS)
        return {name.decode(): why.decode() for name, why in found.items()}


def _entry(value: Any) -> Entry | None:
    if not isinstance(value, bytes):
        return None
    try:
        said = json.loads(value)
        return Entry(str(said["base"]), said.get("active") or None, said.get("shadow") or None)
    except (KeyError, TypeError, ValueError):
        return None  # written by another version of Pallas


def _place(asked: str) -> float:
    """Of a request among all, 0..1, as if by chance."""
    return int.from_bytes(hashlib.sha256(asked.encode("utf-8", "surrogatepass")).digest()[:4], "big") / 2**32


def name_of(version: str) -> str:
    """Of a version as `Entry` has it, the name."""
    return version.partition("#")[0]
