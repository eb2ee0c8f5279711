"""Suggestions that were lost: Label Studio saves only the clicks of one that *Submit* came before the tick of."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import redis

from backend.label_studio.protocol import Annotation, WebhookRequest
from backend.tasks.answers import Answers

_KEY = "pallas:lost"
_MOST = 100
_KEPT_S = 14 * 86_400


@dataclass(frozen=True)
class Lost:
    """A task that was submitted so: its project, how many clicks and boxes were saved instead, seconds since the epoch.

    `told` is whether the annotator was told.
    """

    project: int
    task: int
    prompts: int
    at: float
    told: bool = False

    @property
    def text(self) -> str:
        what = "1 click is" if self.prompts == 1 else f"{self.prompts} clicks are"
        return (
            f"task {self.task} was submitted before the tick: only {what} saved, not the mask. "
            "Open it, delete them, click again, accept, update"
        )


class LostSuggestions:
    """The list of them, in Redis."""

    def __init__(self, client: redis.Redis, answers: Answers) -> None:
        self._redis = client
        self._answers = answers

    def take(self, event: WebhookRequest) -> None:
        """Look for such leftovers in the annotations of an event."""
        project = event.project.id if event.project is not None else None
        if project is None or not event.action.startswith("ANNOTATION") or "DELETED" in event.action:
            return
        works = event.annotation if isinstance(event.annotation, list) else [event.annotation]
        for work in works:
            if work is not None and work.task is not None:
                self._take(project, work.task, work)

    def _take(self, project: int, task: int, work: Annotation) -> None:
        ids = list(dict.fromkeys(str(item["id"]) for item in work.result if item.get("id")))
        prompts = self._answers.prompted(task, ids)
        if prompts:
            # a region that was made from them is there, whatever became of them
            prompts -= {name for region in self._answers.get(ids).values() for name in region.prompts}
        if prompts:
            entry = Lost(project, task, len(prompts), time.time())
            self._redis.hset(_KEY, str(task), json.dumps(vars(entry)))
            self._redis.expire(_KEY, _KEPT_S)
            too_many = [str(lost.task) for lost in self.all()[_MOST:]]
            if too_many:
                self._redis.hdel(_KEY, *too_many)
        else:
            self._redis.hdel(_KEY, str(task))

    def tell(self, project: str) -> str:
        """What the annotators of a project (`id.created_at`) were not told yet, in a line; else an empty one."""
        number = project.partition(".")[0]
        found = [lost for lost in self.all() if not lost.told and str(lost.project) == number]
        for lost in found:
            self._redis.hset(_KEY, str(lost.task), json.dumps(vars(lost) | {"told": True}))
        return "; ".join(lost.text for lost in found)

    def all(self) -> Sequence[Lost]:
        """Newest first."""
        found: Any = self._redis.hvals(_KEY)
        return sorted(_read(found), key=lambda lost: -lost.at)


def _read(entries: Iterable[bytes]) -> Iterable[Lost]:
    for entry in entries:
        try:
            yield Lost(**json.loads(entry))
        except (TypeError, ValueError):
            continue  # written by another version
