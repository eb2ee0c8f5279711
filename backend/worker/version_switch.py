"""Between jobs: which version of the model answers the next one, and the base wherever that version cannot."""

from __future__ import annotations

import logging
import math
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

import redis

from backend.adapters.store import Store
from backend.adapters.table import Table, name_of
from backend.errors import VersionError
from backend.settings import Settings

if TYPE_CHECKING:
    from model import Adapter, PerceiveAnything

log = logging.getLogger(__name__)

_KEPT = 8
"""Versions that stay in host memory."""

_AGAIN_S = 60.0


class VersionSwitch:
    """Puts versions on and takes them off; the base's own weights never change.

    Args:
        settings: where the state folder is.
        client: Redis, from which workers of every machine have the versions in use.
        pam: the model.
    """

    def __init__(self, settings: Settings, client: redis.Redis, pam: PerceiveAnything) -> None:
        self._pam = pam
        self._store = Store(settings)
        self._table = Table(client)
        self._kept: OrderedDict[str, Adapter] = OrderedDict()
        self._on = ""
        self._until = math.inf

    def use(self, version: str) -> None:
        """This version answers from now on, by its name and digest; empty: the base.

        In place of one that cannot be used the base answers; that is told, and tried again after a minute.
        """
        if version == self._on and time.monotonic() < self._until:
            return
        from model.errors import AdapterError

        self._until = math.inf
        try:
            self._pam.use(self._adapter(version) if version else None)
        except (AdapterError, VersionError) as error:
            name = name_of(version)
            log.error("version %s is not used, the base answers: %s", name, error)
            self._kept.pop(version, None)
            self._pam.use(None)
            self._until = time.monotonic() + _AGAIN_S
            try:
                self._table.note_fault(name, str(error))
            except redis.RedisError as trouble:
                log.warning("Redis does not answer (%s)", type(trouble).__name__)
        self._on = version

    def _adapter(self, version: str) -> Adapter:
        if version not in self._kept:
            self._kept[version] = self._read(version)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(version)
        return self._kept[version]

    def _read(self, version: str) -> Adapter:
        from model import Adapter

        name = name_of(version)
        try:
            data = self._table.weights(version)
        except redis.RedisError as error:
            log.warning("Redis does not answer (%s): version %s is read from the disk", type(error).__name__, name)
            data = None
        adapter = self._store.read(name) if data is None else Adapter.from_bytes(data, f"version {name} in Redis")
        if f"{adapter.name}#{adapter.digest}" != version:
            raise VersionError(f"version {name} is another one now: the next job asks for that")
        return adapter
