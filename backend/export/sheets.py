"""What is exported of a task: pictures, and frames of videos, each with its regions and words."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from backend.label_studio.geometry import POINTS, kind_of
from backend.label_studio.protocol import ResultItem, items_of
from backend.label_studio.regions import regions_of, words_of
from backend.label_studio.video_sequences import boxes_on, keyframes_of
from backend.labeling.roles import ImageRoles, Roles
from backend.labeling.video_roles import VideoRoles
from backend.net import data_url

_WORDS = ("choices", "taxonomy", "textarea")
_PLAIN = re.compile(r"[^\w.-]+")


@dataclass(frozen=True)
class Region:
    """One region of a picture or a frame.

    Attributes:
        id: in Label Studio; the same in every frame of a tracked thing.
        item: its geometry.
        labels: by their values in the config, the first one its class; of a region without, what a choice says.
        score: of the model, where it is known.
        texts, classes: what its controls say, by their names.
    """

    id: str
    item: ResultItem
    labels: tuple[str, ...] = ()
    score: float | None = None
    texts: Mapping[str, str] = field(default_factory=dict)
    classes: Mapping[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str | None:
        """Its class."""
        return self.labels[0] if self.labels else None


@dataclass(frozen=True)
class Sheet:
    """One picture, or one frame of a video.

    Attributes:
        task: its key.
        name: of its file, without a suffix; unlike that of any other.
        address: of the picture or video.
        regions: of it.
        size: width and height as Label Studio showed it, upright; None where nothing says.
        texts, classes: about the whole picture.
        video: name shared by all frames of a video, or None.
        frame: by Label Studio's count, from 1; 0 of a picture.
        time_s: when the frame begins.
        events: labels of what happens on the frame.
    """

    task: str
    name: str
    address: str
    regions: tuple[Region, ...]
    size: tuple[int, int] | None = None
    texts: Mapping[str, str] = field(default_factory=dict)
    classes: Mapping[str, str] = field(default_factory=dict)
    video: str | None = None
    frame: int = 0
    time_s: float = 0.0
    events: tuple[str, ...] = ()


@dataclass(frozen=True)
class Clip:
    """A video with what was marked in it; its frames are counted once its duration is known."""

    task: str
    name: str
    address: str
    roles: VideoRoles
    rate: float
    result: Sequence[dict[str, Any]]

    def sheets(self, count: int, step: int) -> Iterator[Sheet]:
        """Every `step`-th frame from 1 to count, with the boxes that Label Studio draws on it."""
        tracks = [_Track.of(items, self.roles) for items in _sequences(self.result, self.roles)]
        spans = [span for item in self.result for span in _spans(item, self.roles)]
        for frame in range(1, count + 1, step):
            regions = [region for track in tracks if (region := track.on(frame)) is not None]
            yield Sheet(
                self.task,
                f"{self.name}-f{frame:06}",
                self.address,
                tuple(regions),
                video=self.name,
                frame=frame,
                time_s=(frame - 1) / self.rate,
                events=tuple(dict.fromkeys(label for first, last, label in spans if first <= frame <= last)),
            )


def read(key: str, data: Mapping[str, Any], result: Sequence[dict[str, Any]], roles: Roles) -> Iterator[Sheet | Clip]:
    """The pictures and videos of a task, with what a result says of them."""
    roles = roles.of(data)
    for image in (page for shown in roles.images.values() for page in shown.pages(data)):
        address = image.picture(data)
        if address is not None:
            yield _sheet(key, address, image, result, roles)
    for video in roles.videos.values():
        address = video.address(data)
        if address is not None:
            yield Clip(key, _name(key, address, video.name), address, video, video.rate(data), result)


def _sheet(key: str, address: str, image: ImageRoles, result: Sequence[dict[str, Any]], roles: Roles) -> Sheet:
    regions = []
    size = None
    for items in regions_of(result, image):
        if items[0].sized:
            size = items[0].original_width, items[0].original_height
        tag = roles.tags.get(items[0].from_name)
        # what only prompts come from is no region, should one have been left in the work
        if kind_of(items[0].type) in POINTS or (tag is not None and tag.is_set("smartonly")):
            continue
        regions.append(_region(items, image))
    drawn = {region.id for region in regions}
    own = {control.name for control in image.whole}
    words = [raw for raw in result if raw.get("from_name") in own and str(raw.get("id")) not in drawn]
    classes, texts = words_of(raw for raw in words if any(image.has(item) for item in items_of([raw])))
    name = _name(key, address, image.name, image.page)
    return Sheet(key, name, address, tuple(regions), size, texts, classes)


def _region(items: Sequence[ResultItem], image: ImageRoles) -> Region:
    labels = [label for item in items if item.type not in _WORDS for label in image.chosen(item)]
    labels = labels or _class(items, image)
    raw = [item.model_dump(exclude_unset=True) for item in items if item.type in _WORDS]
    classes, texts = words_of(raw)
    known = [item.score for item in items if item.score is not None]
    return Region(str(items[0].id), items[0], tuple(dict.fromkeys(labels)), known[0] if known else None, texts, classes)


def _class(items: Sequence[ResultItem], image: ImageRoles) -> list[str]:
    """What a region's first choice says, of a path its last part."""
    for item in items:
        said = (item.value.model_extra or {}).get(item.type)
        if item.type in ("choices", "taxonomy") and isinstance(said, list) and said:
            last = said[0][-1] if isinstance(said[0], list) and said[0] else said[0]
            known = image.labels.get(item.from_name)
            return list(known.values_of([str(last)])) if known is not None else [str(last)]
    return []


@dataclass(frozen=True)
class _Track:
    """A tracked region, and how it is turned from keyframe to keyframe."""

    region: Region
    keyframes: tuple[Any, ...]
    turns: tuple[tuple[float, float], ...]

    @classmethod
    def of(cls, items: Sequence[ResultItem], video: VideoRoles) -> _Track:
        value = items[0].value.model_extra or {}
        classes, texts = words_of(item.model_dump(exclude_unset=True) for item in items if item.type in _WORDS)
        region = Region(str(items[0].id), items[0], video.chosen(items[0]), items[0].score, texts, classes)
        turns = {}
        for one in value.get("sequence") or ():
            if isinstance(one, dict) and isinstance(one.get("frame"), int | float):
                turn = one.get("rotation")
                turns[float(one["frame"])] = float(turn) if isinstance(turn, int | float) else 0.0
        return cls(region, keyframes_of(value), tuple(sorted(turns.items())))

    def on(self, frame: int) -> Region | None:
        """The region on a frame; None where Label Studio shows none."""
        (box,) = boxes_on(self.keyframes, np.array([frame], dtype=float))
        if box is None:
            return None
        frames, turns = zip(*self.turns, strict=True)
        value = dict(zip(("x", "y", "width", "height"), box, strict=True))
        value["rotation"] = float(np.interp(frame, frames, turns))
        item = ResultItem.model_validate({"id": self.region.id, "type": "rectangle", "value": value})
        return replace(self.region, item=item)


def _sequences(result: Sequence[dict[str, Any]], video: VideoRoles) -> list[list[ResultItem]]:
    """The items of each tracked region, its boxes first."""
    found: dict[str, list[ResultItem]] = {}
    for item in items_of(result):
        if item.to_name == video.name and item.id:
            found.setdefault(item.id, []).append(item)
    regions = []
    for items in found.values():
        boxes = [item for item in items if item.type == "videorectangle"]
        if boxes and keyframes_of(boxes[0].value.model_extra or {}):
            regions.append([boxes[0], *(item for item in items if item is not boxes[0])])
    return regions


def _spans(item: Mapping[str, Any], video: VideoRoles) -> Iterator[tuple[float, float, str]]:
    """First and last frame, and label, of what a timeline says."""
    if item.get("type") != "timelinelabels" or item.get("to_name") != video.name:
        return
    value = item.get("value") or {}
    for span in value.get("ranges") or ():
        for label in value.get("timelinelabels") or ():
            try:
                yield float(span["start"]), float(span["end"]), str(label)
            except (KeyError, TypeError, ValueError):
                continue


def duration_frames(result: Sequence[dict[str, Any]], video: VideoRoles) -> int:
    """Label Studio's count of frames as it stands in the work; 0 where it does not."""
    counts = [
        (item.value.model_extra or {}).get("framesCount") for item in items_of(result) if item.to_name == video.name
    ]
    return max((int(count) for count in counts if isinstance(count, int | float)), default=0)


def _name(key: str, address: str, tag: str, page: int | None = None) -> str:
    """Of files: readable, and unlike all others."""
    if data_url.is_data_url(address):
        stem = "picture"
    else:
        parts = urlsplit(address) if "://" in address or address.startswith("/data/") else None
        path = (parse_qs(parts.query).get("d") or [parts.path])[0] if parts is not None else address
        stem = PurePosixPath(unquote(path)).stem
    stem = _PLAIN.sub("_", stem)[:60].strip("._") or "picture"
    mark = "\n".join((key, address, tag, str(page))).encode("utf-8", "surrogatepass")
    return f"{stem}-{hashlib.sha256(mark).hexdigest()[:10]}"
