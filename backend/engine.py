"""The engine of a worker: a job's request in, fetch, encode, segment, describe, its reply out."""

from __future__ import annotations

import hashlib
import math
import time
from typing import TYPE_CHECKING, Any

from backend.errors import BackendError, BadRequest, from_model
from backend.job import VERSION, JobReply, JobRequest, RegionPrompt, RegionReply, TextReply
from backend.pictures import PictureStore
from backend.settings import Settings
from backend.shelf import EmbeddingShelf

if TYPE_CHECKING:
    from model import PerceiveAnything, Prompt

_resident: Engine | None = None
"""The engine of this process: rq calls `perform` by name, so the function must find it here."""


def perform(payload: dict[str, Any]) -> dict[str, Any]:
    """The job function: a JobRequest as JSON in, a JobReply or {"error": ...} as JSON out."""
    assert _resident is not None, "this function runs inside a Pallas worker only"
    return _resident.answer(payload)


def make_resident(engine: Engine) -> None:
    """Let `perform` answer with this engine from now on."""
    global _resident
    _resident = engine


class Engine:
    """Answers jobs with a loaded model."""

    def __init__(self, settings: Settings, pam: PerceiveAnything, pictures: PictureStore) -> None:
        self._settings = settings
        self._pam = pam
        self._pictures = pictures
        self._shelf = EmbeddingShelf(settings.embedding_cache_bytes)

    @property
    def model_version(self) -> str:
        return self._pam.version

    def warm_up(self) -> None:
        """Run the whole path once, so that the first click does not pay for lazy initialisation."""
        from PIL import Image

        from model import Prompt, Task

        self._pam.perceive(
            Image.new("RGB", (64, 64), "gray"), [Prompt(points=[(32, 32, 1)])], [Task.BRIEF], "en", 0.0, 2
        )

    def answer(self, payload: dict[str, Any]) -> dict[str, Any]:
        """The reply, or the error that the request caused; other faults are raised and rq records them."""
        try:
            if payload.get("version") != VERSION:
                raise BadRequest("a job of another version of Pallas: run the same version everywhere")
            request = JobRequest.model_validate(payload)
            return self._perceive(request).model_dump(mode="json")
        except BackendError as error:
            return {"error": error.to_wire()}
        except Exception as error:
            known = from_model(error)
            if known is None:
                raise
            return {"error": known.to_wire()}

    def _perceive(self, request: JobRequest) -> JobReply:
        from model import open_picture

        seconds = {"queue": max(0.0, time.time() - request.sent_at)}
        begin = time.perf_counter()
        data = self._pictures.read(request.picture)
        key = hashlib.sha256(data).hexdigest()
        embedding = self._shelf.get(key)
        cached = embedding is not None
        if embedding is None:
            image = open_picture(data, self._settings.max_picture_pixels)
            seconds["fetch"] = time.perf_counter() - begin
            begin = time.perf_counter()
            embedding = self._pam.encode(image)
            self._shelf.put(key, embedding)
            seconds["encode"] = time.perf_counter() - begin
        else:
            seconds["fetch"], seconds["encode"] = time.perf_counter() - begin, 0.0
        prompts = [to_pixels(prompt, embedding.width, embedding.height) for prompt in request.prompts]
        found = self._pam.perceive(
            embedding, prompts, request.tasks, request.language, max_new_tokens=request.max_new_tokens
        )
        seconds["segment"], seconds["describe"] = found.seconds["segment"], found.seconds["describe"]
        return JobReply(
            width=embedding.width,
            height=embedding.height,
            regions=tuple(_reply(region, texts) for region, texts in found),
            seconds=seconds,
            model_version=self.model_version,
            cached=cached,
        )


def to_pixels(prompt: RegionPrompt, width: int, height: int) -> Prompt:
    """A prompt in percentages → pixels of a picture of that size."""
    from model import Prompt

    points = [(p.x / 100 * width, p.y / 100 * height, int(p.positive)) for p in prompt.points]
    box = None
    if prompt.box is not None:
        x1, y1, x2, y2 = prompt.box
        box = (x1 / 100 * width, y1 / 100 * height, x2 / 100 * width, y2 / 100 * height)
    return Prompt(points=points or None, box=box)


def _reply(region: Any, texts: Any) -> RegionReply:
    from model.mask import to_coco_rle

    return RegionReply(
        mask=to_coco_rle(region.mask),
        area=region.area,
        iou=min(max(region.iou, 0.0), 1.0),
        object_score=region.object_score,
        texts={
            task: TextReply(string=text.string, score=min(1.0, math.exp(text.mean_logprob)))
            for task, text in texts.items()
        },
    )
