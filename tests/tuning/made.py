"""Reviewed work that is made up: coloured shapes whose masks people always drew a little wider."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from backend.label_studio import rle

CONFIG = """<View><Image name="image" value="$image"/>
<BrushLabels name="mask" toName="image"><Label value="disc"/><Label value="box"/></BrushLabels>
<TextArea name="caption" toName="image" perRegion="true" pallas="brief"/></View>"""
SIDE = 96
_WIDER = 3
"""Pixels of the square that masks are widened by."""


def scene(number: int) -> tuple[np.ndarray, np.ndarray, str]:
    """A picture (SIDE, SIDE, 3), the mask of its thing, and what that is."""
    rng = np.random.default_rng(number)
    picture = np.full((SIDE, SIDE, 3), rng.integers(170, 255, 3), np.uint8)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    x, y = (int(place) for place in rng.integers(36, 60, 2))
    size = int(rng.integers(13, 20))
    kind = "disc" if number % 2 else "box"
    if kind == "disc":
        cv2.circle(mask, (x, y), size, 1, -1)
    else:
        cv2.rectangle(mask, (x - size, y - size), (x + size, y + size), 1, -1)
    picture[mask > 0] = rng.integers(0, 110, 3)
    return picture, mask > 0, kind


def wide(mask: np.ndarray) -> np.ndarray:
    """As people draw it in this project."""
    return cv2.dilate(mask.astype(np.uint8), np.ones((_WIDER, _WIDER), np.uint8)) > 0


def png(picture: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "PNG")
    return out.getvalue()


def region(mask: np.ndarray, label: str, caption: str, name: str) -> list[dict[str, Any]]:
    """A region's items as Label Studio saves them."""
    height, width = mask.shape
    shell = {"id": name, "to_name": "image", "original_width": width, "original_height": height, "origin": "manual"}
    brush = {"format": "rle", "rle": rle.encode(mask), "brushlabels": [label]}
    return [
        shell | {"from_name": "mask", "type": "brushlabels", "value": brush},
        shell | {"from_name": "caption", "type": "textarea", "value": {"text": [caption]}},
    ]


def tasks(count: int, folder: Path | None = None, shuffled: bool = False) -> list[dict[str, Any]]:
    """Tasks with an annotation each; their pictures are files of a folder, or inside them."""
    order = np.random.default_rng(1).permutation(count) if shuffled else np.arange(count)
    found = []
    for number in range(count):
        picture, _, _ = scene(number)
        _, mask, kind = scene(int(order[number]))
        if folder is not None:
            (folder / f"{number}.png").write_bytes(png(picture))
        inside = f"data:image/png;base64,{base64.b64encode(png(picture)).decode()}"
        result = region(wide(mask), kind, f"Item: {kind}; intact", f"r{number}")
        annotation = {"id": number, "result": result, "updated_at": "2026-11-20T10:00:00Z"}
        address = inside if folder is None else f"{number}.png"
        found.append({"id": number + 1, "data": {"image": address}, "annotations": [annotation]})
    return found
