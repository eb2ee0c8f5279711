"""Sending what Label Studio sends, and reading what it would read."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import requests
from label_studio_sdk.converter import brush
from PIL import Image

from demo.truth import Scene, Thing
from model.overlay import draw_regions
from model.values.prompt import Prompt
from tiny.clicks import iou


@dataclass(frozen=True)
class Ask:
    """One request: a picture's file name, a prompt in pixels, and, of generated pictures, what is really there."""

    picture: str
    title: str
    points: tuple[tuple[float, float, bool], ...] = ()
    box: tuple[float, float, float, float] | None = None
    thing: Thing | None = None

    @classmethod
    def of_scene(cls, scene: Scene) -> list[Ask]:
        """A click into the middle of each thing of a generated picture that has a class."""
        asks = []
        for thing in scene.things:
            height, width = thing.mask.shape
            x, y = thing.inside()
            if thing.kind != "object":
                point = (x / 100 * width, y / 100 * height, True)
                asks.append(cls(scene.picture.name, f"a click on the {thing.kind}", (point,), thing=thing))
        return asks

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> Ask:
        points = tuple((x, y, bool(inside)) for x, y, inside in entry.get("points", ()))
        box = tuple(entry["box"]) if "box" in entry else None
        return cls(entry["picture"], entry["title"], points, box)

    def context(self, width: int, height: int) -> list[dict[str, Any]]:
        """The regions of `params.context.result`, as Label Studio 1.23 makes them (percentages)."""
        size = {"original_width": width, "original_height": height, "image_rotation": 0}
        result = []
        if self.box is not None:
            x1, y1, x2, y2 = self.box
            value = {
                **{"x": 100 * x1 / width, "y": 100 * y1 / height},
                **{"width": 100 * (x2 - x1) / width, "height": 100 * (y2 - y1) / height},
                "rotation": 0,
            }
            names = {"from_name": "box", "to_name": "image", "type": "rectangle", "origin": "manual"}
            result.append({**size, "value": value, "id": "box0", **names})
        for i, (x, y, inside) in enumerate(self.points):
            spot: dict[str, Any] = {"x": 100 * x / width, "y": 100 * y / height, "width": 0.8, "labels": []}
            names = {"from_name": "point", "to_name": "image", "type": "keypoint", "origin": "manual"}
            result.append({**size, "value": spot, "is_positive": inside, "id": f"point{i}", **names})
        return result

    def truth(self) -> str:
        """What is really there, in words; empty where nobody knows."""
        return f"{self.thing.colour} {self.thing.kind} {self.thing.place}" if self.thing is not None else ""

    def prompt(self) -> Prompt:
        return Prompt(points=[(x, y, int(inside)) for x, y, inside in self.points], box=self.box)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came back for one request; area in pixels, seconds by stage, whole_s with the HTTP round trip."""

    ask: Ask
    width: int
    height: int
    class_text: str
    caption: str
    label: str
    score: float
    area: int
    seconds: dict[str, float]
    whole_s: float
    model_version: str
    overlay: Path
    mask: np.ndarray = field(repr=False)

    @property
    def iou(self) -> float | None:
        """Of the mask with the true one, where that is known."""
        return iou(self.mask, self.ask.thing.mask) if self.ask.thing is not None else None


def send(url: str, config: str, ask: Ask, pictures: str, folder: Path, out: Path) -> Outcome:
    """Send one interactive request and draw its answer.

    Raises:
        SystemExit: the answer is an error; its message says why.
    """
    image = Image.open(folder / ask.picture).convert("RGB")
    body = {
        "tasks": [{"id": 1, "data": {"image": f"{pictures}/{ask.picture}"}, "annotations": [], "predictions": []}],
        "project": "1.1700000000",
        "label_config": config,
        "params": {"login": None, "password": None, "context": {"result": ask.context(*image.size)}},
    }
    begin = time.perf_counter()
    answer = requests.post(f"{url}/predict", json=body, timeout=100)
    whole_s = time.perf_counter() - begin
    if not answer.ok:
        raise SystemExit(f"{ask.picture}, {ask.title}: HTTP {answer.status_code}: {answer.text}")
    prediction = answer.json()["results"][0]
    mask, items = _read(prediction["result"], image.size)
    class_text = " ".join(items.get("brush", {}).get("meta", {}).get("text", []))
    caption = " ".join(items.get("textarea", {}).get("value", {}).get("text", []))
    overlay = out / f"{Path(ask.picture).stem}-{'-'.join(ask.title.replace(',', '').split())}.png"
    words = f"{class_text}: {caption}" if mask.any() else "nothing found"
    draw_regions(image, [mask], [ask.prompt()], [words]).save(overlay)
    return Outcome(
        ask=ask,
        width=image.width,
        height=image.height,
        class_text=class_text,
        caption=caption,
        label=" ".join(items.get("labels", {}).get("value", {}).get("labels", [])),
        score=prediction.get("score") or 0.0,  # none where nothing was found
        area=int(mask.sum()),
        seconds=_timings(answer.headers.get("Server-Timing", "")),
        whole_s=whole_s,
        model_version=prediction["model_version"],
        overlay=overlay,
        mask=mask,
    )


def _read(result: list[dict[str, Any]], size: tuple[int, int]) -> tuple[np.ndarray, dict[str, Any]]:
    """The mask (H, W) of the first region, and its items by type."""
    items: dict[str, Any] = {}
    for item in result:
        if item["id"] == result[0]["id"]:
            items.setdefault(item["type"], item)
    if "brush" not in items:
        return np.zeros((size[1], size[0]), dtype=bool), items
    pixels = brush.decode_rle(items["brush"]["value"]["rle"])
    return pixels.reshape(size[1], size[0], 4)[:, :, 3] > 127, items


def _timings(header: str) -> dict[str, float]:
    """Server-Timing → seconds by name."""
    parts = [part.strip().split(";dur=") for part in header.split(",") if ";dur=" in part]
    return {name: float(value) / 1000 for name, value in parts}
