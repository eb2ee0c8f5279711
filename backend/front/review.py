"""What people keep of our answers: masks, labels and captions after review, from Label Studio's webhooks.

Annotations that *Create Annotations From Predictions* made do not count until somebody edits them.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import redis
from rich.console import Console
from rich.table import Table

from backend.errors import PromptError
from backend.label_studio.geometry import MASKS, kind_of
from backend.label_studio.protocol import Annotation, ResultItem, WebhookRequest
from backend.label_studio.regions import regions_of, rle_of, words_of
from backend.label_studio.video_sequences import keyframes_of, sequence_j
from backend.learning.confidence import LEAST, Case, Confidences, fit, reliability
from backend.learning.reviewed import video_regions
from backend.tasks.answers import Answers, Remembered

log = logging.getLogger(__name__)

KEPT_IOU = 0.95
"""A mask, and a track by its J, counts as kept from this IoU with ours: brushes are saved with small rounding."""

_SUMS = "pallas:review"
_VERSIONS = "pallas:review:versions"
_OF_VERSION = "pallas:review:of:"
_MOST_VERSIONS = 50
_MOST_PIXELS = 178_956_970


@dataclass(frozen=True)
class Verdict:
    """On one region: IoU of the saved mask with ours, labels and texts kept of those we set, and edit distances.

    `j` is that of a tracked region: the mean IoU of the saved boxes with ours over the frames of the video.
    `distance` is the normalised Levenshtein distance of each changed or removed text, 0..1, summed.
    """

    iou: float | None
    labels: int
    labels_kept: int
    texts: int
    texts_kept: int
    distance: float
    j: float | None = None

    @property
    def kept(self) -> bool:
        """Whether the answer was right: mask and labels were kept, or the texts where there was nothing else."""
        if self.iou is None and not self.labels:
            return self.texts_kept == self.texts
        return (self.iou is None or self.iou >= KEPT_IOU) and self.labels_kept == self.labels

    def counts(self) -> dict[str, float]:
        """As numbers that can be added up."""
        has_mask = self.iou is not None
        return {
            "regions": 1,
            "masks": int(has_mask),
            "masks_kept": int(has_mask and (self.iou or 0.0) >= KEPT_IOU),
            "iou": self.iou or 0.0,
            "tracks": int(self.j is not None),
            "tracks_kept": int(self.j is not None and self.j >= KEPT_IOU),
            "j": self.j or 0.0,
            "labels": self.labels,
            "labels_kept": self.labels_kept,
            "texts": self.texts,
            "texts_kept": self.texts_kept,
            "distance": self.distance,
        }


def judge(ours: Remembered, items: Sequence[ResultItem]) -> Verdict:
    """Compare a saved region (its items, geometry first) with what we answered."""
    from rapidfuzz.distance import Levenshtein

    labels, texts = words_of([item.model_dump(exclude_unset=True) for item in items])
    iou = None
    if ours.mask is not None and kind_of(items[0].type) in MASKS:
        try:
            iou = _iou(ours.mask, rle_of(items[0], _MOST_PIXELS))
        except PromptError as error:
            log.info("the saved region %s cannot be compared: %s", ascii(ours.id), error)
    j = None
    if ours.sequence and items[0].type == "videorectangle":
        j = sequence_j(ours.sequence, keyframes_of(items[0].value.model_extra or {}), ours.frames)
    said = [texts.get(name, "") for name in ours.texts]
    distances = [Levenshtein.normalized_distance(a, b) for a, b in zip(ours.texts.values(), said, strict=True)]
    return Verdict(
        iou=iou,
        labels=len(ours.labels),
        labels_kept=sum(labels.get(name) == label for name, label in ours.labels.items()),
        texts=len(distances),
        texts_kept=distances.count(0.0),
        distance=sum(distances),
        j=j,
    )


class Reviews:
    """Sums of all verdicts, in Redis; a region that is saved again counts with its newest state alone."""

    def __init__(self, client: redis.Redis, answers: Answers, confidences: Confidences | None = None) -> None:
        self._redis = client
        self._answers = answers
        self._confidences = confidences or Confidences(client)

    def take(self, event: WebhookRequest) -> int:
        """Judge the regions of an annotation event that came from us; returns how many."""
        if not event.action.startswith("ANNOTATION") or event.annotation is None or "DELETED" in event.action:
            return 0
        annotations = event.annotation if isinstance(event.annotation, list) else [event.annotation]
        project = str(event.project.id) if event.project is not None and event.project.id is not None else ""
        return sum(self._take(one, project) for one in annotations if not one.unseen)

    def _take(self, annotation: Annotation, project: str) -> int:
        regions = regions_of(annotation.result)
        regions += video_regions(annotation.result)
        known = self._answers.get([items[0].id for items in regions if items[0].id])
        count = 0
        for items in regions:
            ours = known.get(items[0].id or "")
            if ours is not None:
                verdict = judge(ours, items)
                self._add(ours.id, verdict.counts(), ours.version)
                if ours.sure is not None and not annotation.was_cancelled:
                    self._confidences.note(project, ours.id, Case(ours.signs, ours.sure, verdict.kept))
                count += 1
        return count

    def _add(self, region: str, counts: dict[str, float], version: str) -> None:
        before = self._answers.reviewed(region, json.dumps(counts))
        old: dict[str, Any] = json.loads(before) if before is not None else {}
        sums = [_SUMS, *([self._sums_of(version)] if version else [])]
        pipe = self._redis.pipeline(transaction=False)
        for name, value in counts.items():
            change = value - old.get(name, 0)
            if change:
                for key in sums:
                    pipe.hincrbyfloat(key, name, change)
        pipe.execute()

    def _sums_of(self, version: str) -> str:
        """The key of a version's own sums; the versions that were reviewed longest ago lose theirs."""
        if self._redis.zscore(_VERSIONS, version) is None and int(self._redis.zcard(_VERSIONS)) >= _MOST_VERSIONS:
            oldest: Any = self._redis.zpopmin(_VERSIONS)
            self._redis.delete(_OF_VERSION + oldest[0][0].decode())
        self._redis.zadd(_VERSIONS, {version: time.time()})
        return _OF_VERSION + version


def totals(client: redis.Redis, version: str | None = None) -> Counter[str]:
    """The sums of all verdicts so far, or of those on one version's answers."""
    found: dict[Any, Any] = client.hgetall(_SUMS if version is None else _OF_VERSION + version)
    return Counter({name.decode(): float(value) for name, value in found.items()})


def show(client: redis.Redis, console: Console) -> int:
    """Print the statistics (`python -m backend review`)."""
    found = totals(client)
    if not found["regions"]:
        console.print(
            "No reviewed regions yet: annotations that are submitted in Label Studio come in through its webhook "
            "(it is made when the backend is connected). Those that nobody looked at do not count."
        )
        return 0
    table = Table("of our answers", "reviewed", "kept", "share", title=f"{found['regions']:.0f} regions reviewed")
    for title, name in (("masks", "masks"), ("tracks", "tracks"), ("labels", "labels"), ("texts", "texts")):
        count, kept = found[name], found[f"{name}_kept"]
        table.add_row(title, f"{count:.0f}", f"{kept:.0f}", f"{kept / count:.0%}" if count else "–")
    console.print(table)
    console.print(
        "counted: our regions in annotations that people submitted or updated, each as it was saved last; not those "
        'that "Create Annotations From Predictions" made and nobody has edited since'
    )
    _show_versions(client, console)
    if found["masks"]:
        console.print(f"mean IoU of the saved masks with ours: {found['iou'] / found['masks']:.3f}")
    if found["tracks"]:
        console.print(f"mean J of the saved tracks with ours, over all frames: {found['j'] / found['tracks']:.3f}")
    _show_confidence(Confidences(client), console)
    if found["texts"]:
        console.print(f"mean edit distance of texts (0 kept, 1 rewritten): {found['distance'] / found['texts']:.3f}")
    return 0


def _show_versions(client: redis.Redis, console: Console) -> None:
    """What people kept of each version's answers, where there are several."""
    names: Any = client.zrange(_VERSIONS, 0, -1)
    if len(names) < 2:
        return
    table = Table("kept of version", "regions", "masks", "labels", "texts")
    for version in sorted(name.decode() for name in names):
        found = totals(client, version)
        shares = [
            f"{found[f'{name}_kept'] / found[name]:.0%} of {found[name]:.0f}" if found[name] else "–"
            for name in ("masks", "labels", "texts")
        ]
        table.add_row(version, f"{found['regions']:.0f}", *shares)
    console.print(table)


def _show_confidence(confidences: Confidences, console: Console) -> None:
    """How sure we said to be, and what people kept of it."""
    for project in confidences.projects():
        cases = confidences.cases(project)
        fitted = fit(cases).reviewed
        by = f"fitted to {fitted} of its reviews" if fitted else f"by the defaults, until {LEAST} reviews can be fitted"
        console.print(f"project {project}: confidence is {by}", highlight=False)
        table = Table("confidence", "regions", "said", "kept")
        for low, high, count, said, kept in reliability(cases):
            table.add_row(f"{low:.1f}–{high:.1f}", str(count), f"{said:.0%}", f"{kept:.0%}")
        console.print(table)


def _iou(one: dict[str, Any], other: dict[str, Any]) -> float:
    from model.values.mask import from_rle, mask_iou

    return mask_iou(from_rle(one), from_rle(other)) if one["size"] == other["size"] else 0.0
