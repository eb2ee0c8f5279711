"""Which tasks have something to teach: a set in Redis, so that any number of events about a task are one lesson."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import redis

from backend.label_studio.protocol import WebhookRequest
from backend.settings import Settings

_DUE = "pallas:learn:due"
_DOING = "pallas:learn:doing"
_MOST = 200_000
"""Tasks that wait, 16 MB; who teaches more at once does it by `learn`, page by page."""


@dataclass(frozen=True, order=True)
class Due:
    """A task whose annotations have changed; or, with a negative number, an annotation that is gone."""

    project: int
    task: int

    @property
    def key(self) -> str:
        return f"{self.project}:{self.task}"

    @classmethod
    def of(cls, key: bytes) -> Due:
        project, _, task = key.decode().partition(":")
        return cls(int(project), int(task))


class LessonQueue:
    """The set of them.

    Args:
        client: Redis.
        settings: whether anything is taught at all.
    """

    def __init__(self, client: redis.Redis, settings: Settings) -> None:
        self._redis = client
        known = settings.label_studio_url is not None and settings.label_studio_api_key is not None
        self.possible = settings.learn_labels and known
        """What a task teaches is read through Label Studio's API."""

    def take(self, event: WebhookRequest) -> int:
        """Note what an event is about; how many tasks that may be."""
        project = event.project.id if event.project is not None else None
        if not self.possible or project is None:
            return 0
        works = event.annotation if isinstance(event.annotation, list) else [event.annotation]
        tasks = [work.task for work in works if work is not None and work.task is not None and not work.unseen]
        tasks += [-gone.id for gone in event.annotations if gone.id is not None]
        tasks += [gone.id for gone in event.tasks if gone.id is not None and event.action == "TASKS_DELETED"]
        return self.add(project, tasks)

    def add(self, project: int, tasks: Iterable[int]) -> int:
        """These have something to teach; how many have been taken."""
        keys = [Due(project, task).key for task in dict.fromkeys(tasks)]
        if not keys or self._redis.scard(_DUE) + len(keys) > _MOST:
            return 0
        self._redis.sadd(_DUE, *keys)
        return len(keys)

    def pick(self, count: int) -> list[Due]:
        """Some that wait; they are in hand until `done`."""
        found: Any = self._redis.srandmember(_DUE, count) if count > 0 else []
        # moved one by one: what is added again meanwhile waits again
        return [Due.of(key) for key in found if self._redis.smove(_DUE, _DOING, key)]

    def done(self, due: Due) -> None:
        self._redis.srem(_DOING, due.key)

    def later(self, due: Due) -> None:
        """Not now: it waits again."""
        self._redis.smove(_DOING, _DUE, due.key)

    def again(self) -> None:
        """What was in hand of a program that is gone waits again."""
        pipe = self._redis.pipeline()
        pipe.sunionstore(_DUE, [_DUE, _DOING])
        pipe.delete(_DOING)
        pipe.execute()

    def waiting(self, project: int) -> bool:
        """Whether something of a project waits or is in hand."""
        mine = f"{project}:*"
        return any(True for key in (_DUE, _DOING) for _ in self._redis.sscan_iter(key, mine, 1000))

    def drop(self, project: int) -> None:
        """Nothing of a project waits any more."""
        for key in (_DUE, _DOING):
            mine = list(self._redis.sscan_iter(key, f"{project}:*", 1000))
            if mine:
                self._redis.srem(key, *mine)
