"""Masks on photographs, for anybody who has some with regions that people drew: one click and a tight box.

The folder holds `pictures/` and truth.json, an object of rows by picture: `{"a.jpg": [{"mask": RLE as pycocotools
writes it, "click": [x, y], "box": [left, top, right, bottom]}]}`, in pixels of the picture. The filled box stands
beside the figures: masks that are worse than it are worth nothing. So does the box's mask cut to its box: what lies
between the two is what the mask has beyond.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco
from rich.console import Console
from rich.progress import track

from model import PerceiveAnything, Prompt
from tiny import clicks

TARGETS: dict[str, float | None] = {
    "photo_click": 0.55,
    "photo_box": 0.70,
    "photo_box_75": 0.50,
    "photo_box_cut": None,
    "photo_filled_box": None,
}
"""The promised figures, by key: mean IoU of a click and of a box, share of the boxes whose mask has IoU ≥ 0.75."""


class TruthMissing(ValueError):
    """The folder has no truth.json that can be read, or a picture that it names is not there."""


def figures(pam: PerceiveAnything, folder: Path, console: Console) -> dict[str, float]:
    """The rates by key, 0…1. Raises TruthMissing where the folder is not as it should be."""
    rows = _truth(folder)
    found: list[tuple[float, float, float, float]] = []
    for name in track(rows, description="photographs", console=console, transient=True):
        found += _regions(pam, folder / "pictures" / name, rows[name])
    if not found:
        raise TruthMissing(f"{folder / 'truth.json'} has no regions")
    click, box, cut, filled = np.array(found).T
    return {
        "photo_click": float(click.mean()),
        "photo_box": float(box.mean()),
        "photo_box_75": float((box >= 0.75).mean()),
        "photo_box_cut": float(cut.mean()),
        "photo_filled_box": float(filled.mean()),
    }


def _truth(folder: Path) -> dict[str, list[dict[str, Any]]]:
    file = folder / "truth.json"
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TruthMissing(
            f"{file} cannot be read ({error}): it holds rows of mask, click and box by picture"
        ) from None
    if not isinstance(rows, dict):
        raise TruthMissing(f"{file} is not an object of rows by picture")
    return rows


def _regions(
    pam: PerceiveAnything, file: Path, rows: list[dict[str, Any]]
) -> Iterator[tuple[float, float, float, float]]:
    try:
        picture = Image.open(file).convert("RGB")
        asked = [(coco.decode(r["mask"]).astype(bool), tuple(r["click"]), tuple(map(float, r["box"]))) for r in rows]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise TruthMissing(f"{file} or its rows cannot be read: {error!r}") from None
    embedding = pam.encode(picture)
    for truth, (x, y), box in asked:
        if truth.shape != (picture.height, picture.width):
            raise TruthMissing(f"{file} is {picture.width} × {picture.height}, a mask of it {truth.shape[::-1]}")
        clicked, boxed = pam.segment(embedding, [Prompt(points=[(x, y, 1)]), Prompt(box=box)])  # type: ignore[arg-type]
        filled = np.zeros_like(truth)
        filled[int(box[1]) : int(box[3]), int(box[0]) : int(box[2])] = True
        click, whole, cut, box_alone = (
            clicks.iou(truth, mask) for mask in (clicked.mask, boxed.mask, boxed.mask & filled, filled)
        )
        yield click, whole, cut, box_alone
