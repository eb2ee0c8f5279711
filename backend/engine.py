"""The engine of a worker: a job's request in, fetch, encode, segment, describe, its reply out."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from backend import logs
from backend.errors import BackendError, BadRequest, from_model
from backend.job import VERSION, Group, JobReply, JobRequest, LabelReply, RegionPrompt, RegionReply, TextReply
from backend.labels import best_label
from backend.pictures import PictureStore
from backend.settings import Settings
from backend.shelf import Addresses, EmbeddingShelf

if TYPE_CHECKING:
    from model import Embedding, PerceiveAnything, Reading, Region

log = logging.getLogger(__name__)

_resident: Engine | None = None
"""The engine of this process: rq calls `perform` by name, so the function must find it here."""


def perform(payload: dict[str, Any]) -> dict[str, Any]:
    """The job function: a JobRequest as JSON in, a JobReply or {"error": ...} as JSON out."""
    assert _resident is not None, "this function runs inside a Pallas worker only"
    logs.begin_request(logs.sane_id(str(payload.get("request_id"))) or "")
    begin = time.perf_counter()
    reply = _resident.answer(payload)
    _log(reply, time.perf_counter() - begin)
    return reply


def _log(reply: dict[str, Any], seconds: float) -> None:
    """The one line of a job."""
    fields: dict[str, Any] = {"seconds": round(seconds, 4)}
    words = [f"job {seconds:.3f}s"]
    if "error" in reply:
        fields["error"] = reply["error"]
        words.append(f"{reply['error']['type']}: {reply['error']['message']}")
    else:
        fields["stages"] = stages = {name: round(value, 4) for name, value in reply["seconds"].items()}
        words += [f"{name}={value:.3f}" for name, value in stages.items()]
    log.info("%s", " ".join(words), extra={"fields": fields})


def make_resident(engine: Engine) -> None:
    """Let `perform` answer with this engine from now on."""
    global _resident
    _resident = engine


def resident_stats() -> dict[str, float]:
    """Of this process's engine; empty while it is loading."""
    return _resident.stats() if _resident is not None else {}


class Engine:
    """Answers jobs with a loaded model."""

    def __init__(self, settings: Settings, pam: PerceiveAnything, pictures: PictureStore) -> None:
        self._settings = settings
        self._pam = pam
        self._pictures = pictures
        self._addresses = Addresses(settings.picture_memory_s)
        on_host = pam.device.type == "cpu"
        self._shelf = EmbeddingShelf(
            settings.embedding_cache_bytes, 0 if on_host else settings.embedding_host_bytes, str(pam.device)
        )

    @property
    def model_version(self) -> str:
        return self._pam.version

    def stats(self) -> dict[str, float]:
        """For /metrics: what the worker remembers of pictures, and its GPU's memory in bytes."""
        shelf = self._shelf
        found: dict[str, float] = {
            "embedding_hits": shelf.stats.hits,
            "embedding_misses": shelf.stats.misses,
            "embedding_evictions": shelf.stats.evictions,
            "embedding_bytes": shelf.nbytes,
            "embedding_host_bytes": shelf.host_nbytes,
        }
        if self._pam.device.type == "cuda":
            import torch

            found["gpu_memory_bytes"] = torch.cuda.memory_reserved(self._pam.device)
            found["gpu_memory_peak_bytes"] = torch.cuda.max_memory_allocated(self._pam.device)
        return found

    def warm_up(self) -> None:
        """Run the whole path once, so that the first click does not pay for lazy initialisation."""
        from PIL import Image

        from model import Prompt, Task

        found = self._pam.perceive(
            Image.new("RGB", (64, 64), "gray"), [Prompt(points=[(32, 32, 1)])], [Task.BRIEF], "en", 0.0, 2
        )
        self._pam.score(found.regions, ["a", "b"])

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
        seconds: dict[str, float] = {"queue": max(0.0, time.time() - request.sent_at)}
        embedding, cached = self._embedding(request.picture, seconds)
        seconds |= dict.fromkeys(("decode", "prefill", "generate"), 0.0)
        groups = tuple(self._group(embedding, group, request.max_new_tokens, seconds) for group in request.groups)
        return JobReply(
            width=embedding.width,
            height=embedding.height,
            groups=groups,
            seconds=seconds,
            model_version=self.model_version,
            cached=cached,
        )

    def _embedding(self, picture: str, seconds: dict[str, float]) -> tuple[Embedding, bool]:
        """Of a picture, and whether it was there already."""
        from model import open_picture

        begin = time.perf_counter()
        known = self._addresses.get(picture)
        embedding = self._shelf.get(known) if known is not None else None
        if embedding is None:
            data = self._pictures.read(picture)
            key = hashlib.sha256(data).hexdigest()
            self._addresses.put(picture, key)
            # the same picture under another address is the same picture
            embedding = self._shelf.get(key) if key != known else None
        if embedding is not None:
            seconds |= {"fetch": time.perf_counter() - begin, "encode": 0.0}
            return embedding, True
        image = open_picture(data, self._settings.max_picture_pixels)
        fetched = time.perf_counter()
        embedding = self._pam.encode(image)
        self._shelf.put(key, embedding)
        seconds |= {"fetch": fetched - begin, "encode": time.perf_counter() - fetched}
        return embedding, False

    def _group(
        self, embedding: Embedding, group: Group, max_new_tokens: int, seconds: dict[str, float]
    ) -> tuple[RegionReply, ...]:
        begin = time.perf_counter()
        if group.propose:
            regions = self._pam.propose(embedding, limit=self._settings.max_proposals)
        else:
            regions = self._segment(embedding, group.prompts)
        decoded = time.perf_counter()
        # each region's prompt is read once, whatever is then asked about it
        reading = self._pam.read(regions)
        prefilled = time.perf_counter()
        texts = self._texts(reading, group, max_new_tokens)
        labels = self._labels(reading, group)
        seconds["decode"] += decoded - begin
        seconds["prefill"] += prefilled - decoded
        seconds["generate"] += time.perf_counter() - prefilled
        return tuple(_reply(region, t, chosen) for region, t, chosen in zip(regions, texts, labels, strict=True))

    def _texts(self, reading: Reading, group: Group, max_new_tokens: int) -> list[dict[str, TextReply]]:
        """For each region its texts by `TextAsk.key`."""
        texts: list[dict[str, TextReply]] = [{} for _ in reading.regions]
        by_language = defaultdict(list)
        for ask in group.texts:
            by_language[ask.language].append(ask)
        for language, asks in by_language.items():
            found = self._pam.describe(reading, [a.task for a in asks], language, max_new_tokens=max_new_tokens)
            for mine, said in zip(texts, found, strict=True):
                for ask in asks:
                    text = said[ask.task]
                    mine[ask.key] = TextReply(string=text.string, score=min(1.0, math.exp(text.mean_logprob)))
        return texts

    def _segment(self, embedding: Embedding, prompts: tuple[RegionPrompt, ...]) -> list[Region]:
        from backend.corrections import cut, to_pixels

        width, height = embedding.width, embedding.height
        return self._pam.segment(
            embedding,
            [
                cut(self._pam, embedding, prompt)
                if prompt.mask is not None and prompt.points
                else to_pixels(prompt, width, height)
                for prompt in prompts
            ],
        )

    def _labels(self, reading: Reading, group: Group) -> list[tuple[LabelReply, ...]]:
        """For each region the likeliest label of each set."""
        chosen: list[list[LabelReply]] = [[] for _ in reading.regions]
        for labels in group.label_sets:
            names = list(dict.fromkeys(name for candidate in labels.candidates for name in candidate.names))
            scores = self._pam.score(reading, names, language=labels.language)
            for mine, row in zip(chosen, scores.tolist(), strict=True):
                mine.append(best_label(labels.candidates, dict(zip(names, row, strict=True))))
        return [tuple(mine) for mine in chosen]


def _reply(region: Region, texts: dict[str, TextReply], labels: tuple[LabelReply, ...]) -> RegionReply:
    from model.mask import to_coco_rle

    return RegionReply(
        mask=to_coco_rle(region.mask),
        area=region.area,
        iou=min(max(region.iou, 0.0), 1.0),
        object_score=region.object_score,
        texts=texts,
        labels=labels,
    )
