"""The judges of projects' label memories, as a worker has them in hand: read from Redis when they have changed."""

from __future__ import annotations

import logging
from collections import OrderedDict

import redis

from backend.learning.judge import Judge
from backend.learning.published import base_model, read_judge

_MOST = 32

log = logging.getLogger(__name__)


class Judges:
    """Not for several threads.

    Args:
        client: Redis.
        model_version: of this worker's model; a judge of another model's features says nothing.
    """

    def __init__(self, client: redis.Redis, model_version: str) -> None:
        self._redis = client
        self._model = base_model(model_version)
        self._known: OrderedDict[int, Judge | None] = OrderedDict()
        self._versions: dict[int, int] = {}

    def get(self, memory: str) -> Judge | None:
        """The judge of a project's memory (`number@version`), of this version or a newer one; None where none helps."""
        number, _, version = memory.partition("@")
        if not number.isdigit() or not version.isdigit():
            return None
        project = int(number)
        if self._versions.get(project, -1) < int(version):
            try:
                judge = read_judge(self._redis, project)
            except redis.RedisError as error:
                log.warning("Redis does not answer (%s): the label memory is not asked", type(error).__name__)
                return self._known.get(project)
            self._known[project] = judge if judge is not None and judge.model == self._model else None
            self._versions[project] = max(int(version), judge.version if judge is not None else 0)
        self._known.move_to_end(project)
        while len(self._known) > _MOST:
            old, _ = self._known.popitem(last=False)
            del self._versions[old]
        return self._known.get(project)
