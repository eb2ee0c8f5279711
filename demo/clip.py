"""A short generated clip with exact truth: a drawing stands, then moves away; and what comes back for a box on it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import requests
from PIL import Image, ImageDraw, ImageFilter

from demo.truth import Scene, Thing
from model import Video, open_video
from model.values.mask import Box, mask_box
from model.video.overlay import filmstrip, write_video
from model.video.source import Pictures

WIDTH, HEIGHT, RATE, FRAMES = 320, 240, 8, 32
CHANGE = 12
"""The frame, from 1, from which on the thing moves."""

_SIDE = 110  # of the thing, pixels
_STEP = 9.0  # pixels a frame
_SHOWN = 8  # frames in the filmstrip


@dataclass(frozen=True)
class Clip:
    """A video file, the thing in it, and its true box on each frame, pixels."""

    path: Path
    kind: str
    boxes: tuple[Box, ...]

    @property
    def drawn(self) -> dict[str, Any]:
        """The box on frame 1 as a person draws it in Label Studio 1.23."""
        x1, y1, x2, y2 = self.boxes[0]
        keyframe = {
            **{"frame": 1, "enabled": True, "rotation": 0, "time": 1 / RATE},
            **{"x": 100 * x1 / WIDTH, "y": 100 * y1 / HEIGHT},
            **{"width": 100 * (x2 - x1) / WIDTH, "height": 100 * (y2 - y1) / HEIGHT},
        }
        value = {"framesCount": FRAMES, "duration": FRAMES / RATE, "sequence": [keyframe], "labels": ["object"]}
        item = {"id": "drawn", "type": "videorectangle", "from_name": "box", "to_name": "video", "origin": "manual"}
        return item | {"value": value}


def make_clip(scene: Scene, kind: str, path: Path) -> Clip:
    """Cut a thing out of a generated picture and let it stand, then move to the right."""
    thing = scene.thing(kind)
    with Image.open(scene.picture) as picture:
        ground = picture.convert("RGB").resize((WIDTH, HEIGHT)).filter(ImageFilter.GaussianBlur(30))
        cut, shape = _cut(picture.convert("RGB"), thing)
    frames, boxes = [], []
    for number in range(FRAMES):
        left = round(20 + _STEP * max(0, number + 1 - CHANGE))
        frame = ground.copy()
        frame.paste(cut, (left, (HEIGHT - cut.height) // 2), shape)
        mask = Image.new("L", (WIDTH, HEIGHT))
        mask.paste(shape, (left, (HEIGHT - cut.height) // 2))
        frames.append(frame)
        box = mask_box(np.asarray(mask) > 127)
        assert box is not None
        boxes.append(box)
    write_video(path, Pictures(frames, RATE), iter(enumerate(frames)))
    return Clip(path, kind, tuple(boxes))


def _cut(picture: Image.Image, thing: Thing) -> tuple[Image.Image, Image.Image]:
    """The thing and its mask, of one size."""
    box = mask_box(thing.mask)
    assert box is not None
    corners = (round(box[0]), round(box[1]), round(box[2]), round(box[3]))
    scale = _SIDE / max(box[2] - box[0], box[3] - box[1])
    size = round((box[2] - box[0]) * scale), round((box[3] - box[1]) * scale)
    mask = Image.fromarray((thing.mask * 255).astype(np.uint8))
    return picture.crop(corners).resize(size), mask.crop(corners).resize(size)


def box_at(sequence: list[dict[str, Any]], frame: int) -> Box | None:
    """What Label Studio 1.23 draws on a frame, percentages x1, y1, x2, y2: straight lines between keyframes."""
    before = [keyframe for keyframe in sequence if keyframe["frame"] <= frame]
    after = [keyframe for keyframe in sequence if keyframe["frame"] >= frame]
    one = before[-1] if before else after[0]
    if not one["enabled"] and one["frame"] != frame:
        return None
    two = after[0] if after else one
    span = two["frame"] - one["frame"]
    share = (frame - one["frame"]) / span if span else 0.0
    x, y, width, height = (one[key] + share * (two[key] - one[key]) for key in ("x", "y", "width", "height"))
    return x, y, x + width, y + height


@dataclass(frozen=True, eq=False)
class ClipOutcome:
    """What came back; iou is the mean of the boxes' with the true ones, events are (first, last frame, caption)."""

    clip: Clip
    class_text: str
    caption: str
    keyframes: int
    iou: float
    events: tuple[tuple[int, int, str], ...]
    whole_s: float
    strip: Path
    result: list[dict[str, Any]] = field(repr=False)


def send_clip(url: str, config: str, clip: Clip, videos: str, out: Path) -> ClipOutcome:
    """Retrieve the prediction of a task in which somebody drew a box on frame 1, and draw it.

    Raises:
        SystemExit: the answer is an error, or has no tracked region.
    """
    annotation = {"id": 1, "result": [clip.drawn], "updated_at": "2026-01-01T00:00:00Z"}
    body = {
        "tasks": [{"id": 2, "data": {"video": f"{videos}/{clip.path.name}"}, "annotations": [annotation]}],
        "project": "1.1700000000",
        "label_config": config.replace('frameRate="25"', f'frameRate="{RATE}"'),
        "params": {"login": None, "password": None, "context": None},
    }
    begin = time.perf_counter()
    answer = requests.post(f"{url}/predict", json=body, timeout=100)
    whole_s = time.perf_counter() - begin
    if not answer.ok:
        raise SystemExit(f"{clip.path.name}: HTTP {answer.status_code}: {answer.text}")
    prediction = answer.json()["results"][0]
    result = prediction["result"] if prediction else []
    tracked = next((item for item in result if item["type"] == "videorectangle"), None)
    if tracked is None:
        raise SystemExit(f"{clip.path.name}: nothing was tracked")
    sequence = tracked["value"]["sequence"]
    boxes = [box_at(sequence, frame) for frame in range(1, FRAMES + 1)]
    strip = out / f"{clip.path.stem}-tracked.png"
    _draw(open_video(clip.path), boxes).save(strip)
    return ClipOutcome(
        clip=clip,
        class_text=" ".join(tracked.get("meta", {}).get("text", [])),
        caption=_text_of(result, tracked["id"]),
        keyframes=len(sequence),
        iou=sum(_iou(box, true) for box, true in zip(boxes, clip.boxes, strict=True)) / FRAMES,
        events=tuple(
            (item["value"]["ranges"][0]["start"], item["value"]["ranges"][0]["end"], _text_of(result, item["id"]))
            for item in result
            if item["type"] == "timelinelabels"
        ),
        whole_s=whole_s,
        strip=strip,
        result=result,
    )


def _text_of(result: list[dict[str, Any]], region: str) -> str:
    found = (item for item in result if item["id"] == region and item["type"] == "textarea")
    return next((" ".join(item["value"]["text"]) for item in found), "")


def _draw(video: Video, boxes: list[Box | None]) -> Image.Image:
    """Some frames with the box that Label Studio draws there, and their numbers."""
    shown = []
    for number, picture in video.read([round(i) for i in np.linspace(0, FRAMES - 1, _SHOWN)]):
        pen = ImageDraw.Draw(picture)
        box = boxes[number]
        if box is not None:
            corners = [(box[0] * WIDTH / 100, box[1] * HEIGHT / 100), (box[2] * WIDTH / 100, box[3] * HEIGHT / 100)]
            pen.rectangle(corners, outline=(230, 25, 75), width=3)
        pen.text((6, 4), f"frame {number + 1}", fill="white", stroke_width=2, stroke_fill="black")
        shown.append(picture)
    return filmstrip(shown)


def _iou(box: Box | None, true: Box) -> float:
    """Of a box in percentages with the true one in pixels; 0 where there is none."""
    if box is None:
        return 0.0
    x1, y1, x2, y2 = box[0] * WIDTH / 100, box[1] * HEIGHT / 100, box[2] * WIDTH / 100, box[3] * HEIGHT / 100
    both = max(0.0, min(x2, true[2]) - max(x1, true[0])) * max(0.0, min(y2, true[3]) - max(y1, true[1]))
    return both / ((x2 - x1) * (y2 - y1) + (true[2] - true[0]) * (true[3] - true[1]) - both)
