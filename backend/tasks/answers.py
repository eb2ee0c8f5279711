"""What we answered, remembered in Redis: to correct a region later, and to see what people keep of it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import redis
from pydantic import BaseModel, ConfigDict, ValidationError

from backend.job import RegionPrompt
from backend.label_studio.video_sequences import Keyframe, keyframes_of
from backend.settings import Settings

_KEY = "pallas:answer:"
_TASK = "pallas:answers:"
_MOST_OF_TASK = 200
_DAY_S = 86_400


class Remembered(BaseModel):
    """One answered region.

    Attributes:
        id: of the region in Label Studio.
        at: when it was answered, seconds since the epoch; `Answers.keep` says so.
        image: name of the <Image> or <Video>.
        mask: COCO RLE of our mask; None where a person's own geometry was described.
        prompt: the clicks and the box that made it, for corrections; Label Studio does not keep them.
        labels: by control name, the labels or choices that we set, joined by ", " (the parts of a path by " / ").
        texts: by control name, the text that we set.
        sequence: keyframes of our tracked region; empty where it is none.
        frames: of the video, by Label Studio's count.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    image: str
    page: int | None = None
    at: float = 0.0
    mask: dict[str, Any] | None = None
    prompt: RegionPrompt | None = None
    labels: dict[str, str] = {}
    texts: dict[str, str] = {}
    sequence: tuple[Keyframe, ...] = ()
    frames: int = 0

    @classmethod
    def of(
        cls, items: Sequence[dict[str, Any]], mask: dict[str, Any] | None, prompt: RegionPrompt | None = None
    ) -> Remembered:
        """From the items of one region, as they are answered."""
        labels, texts = words_of(items)
        kept = prompt.model_copy(update={"mask": None}) if prompt is not None else None
        name, image = items[0]["id"], items[0]["to_name"]
        value = items[0]["value"]
        return cls(
            **{"id": name, "image": image, "page": items[0].get("item_index"), "mask": mask, "prompt": kept},
            **{"labels": labels, "texts": texts},
            sequence=keyframes_of(value),
            frames=value.get("framesCount", 0),
        )


def words_of(items: Iterable[dict[str, Any]]) -> tuple[dict[str, str], dict[str, str]]:
    """Labels and texts of a region's items, by control name."""
    labels: dict[str, str] = {}
    texts: dict[str, str] = {}
    for item in items:
        kind, name = str(item.get("type", "")), str(item.get("from_name", ""))
        value = item.get("value", {}).get({"textarea": "text", "videorectangle": "labels"}.get(kind, kind))
        if not isinstance(value, list) or not value:
            continue
        if kind == "textarea":
            texts[name] = "\n".join(str(part) for part in value)
        else:
            labels[name] = ", ".join(" / ".join(map(str, v)) if isinstance(v, list) else str(v) for v in value)
    return labels, texts


class Memory(Protocol):
    """What planning asks of it."""

    def get(self, ids: Sequence[str]) -> dict[str, Remembered]:
        """Those of the regions that we answered and remember."""

    def of_task(self, project: str, task: int | None) -> list[Remembered]:
        """Regions that we answered for a task, the newest first."""


class Answers:
    """The memory; every entry is forgotten after its time."""

    def __init__(self, client: redis.Redis, keep_s: int) -> None:
        self._redis = client
        self._keep_s = keep_s

    @classmethod
    def of(cls, settings: Settings, client: redis.Redis) -> Answers:
        """The memory as it is set."""
        return cls(client, round(settings.remember_days * _DAY_S))

    def keep(self, project: str, task: int | None, answered: Sequence[Remembered]) -> None:
        """Remember regions of a task (projects are `id.created_at`, as Label Studio sends them)."""
        if not answered:
            return
        now = time.time()
        pipe = self._redis.pipeline(transaction=False)
        for region in answered:
            pipe.set(_KEY + region.id, region.model_copy(update={"at": now}).model_dump_json(), ex=self._keep_s)
        if task is not None:
            index = _index(project, task)
            pipe.lpush(index, *(region.id for region in answered))
            pipe.ltrim(index, 0, _MOST_OF_TASK - 1)
            pipe.expire(index, self._keep_s)
        pipe.execute()

    def get(self, ids: Sequence[str]) -> dict[str, Remembered]:
        """Those of the regions that we answered and remember."""
        if not ids:
            return {}
        found: dict[str, Remembered] = {}
        for text in self._redis.mget([_KEY + name for name in ids]):
            if text is None:
                continue
            try:
                region = Remembered.model_validate_json(text)
            except ValidationError:
                continue  # written by another version
            found[region.id] = region
        return found

    def of_task(self, project: str, task: int | None) -> list[Remembered]:
        """Regions that we answered for a task, the newest first."""
        if task is None:
            return []
        ids = [
            name.decode() if isinstance(name, bytes) else name
            for name in self._redis.lrange(_index(project, task), 0, -1)
        ]
        found = self.get(list(dict.fromkeys(ids)))
        return [found[name] for name in dict.fromkeys(ids) if name in found]


def _index(project: str, task: int) -> str:
    return f"{_TASK}{project}:{task}"
