"""Masks as values: their box and their run-length encoding."""

from __future__ import annotations

import numpy as np
from pycocotools import mask as coco

Box = tuple[float, float, float, float]
"""(x1, y1, x2, y2) in pixels of the original picture, x right, y down; x2 and y2 are exclusive edges."""


def mask_box(mask: np.ndarray) -> Box | None:
    """The smallest box (x1, y1, x2, y2) around a boolean mask (H, W), in pixels; None for an empty mask."""
    columns = np.flatnonzero(mask.any(axis=0))
    if not len(columns):
        return None
    rows = np.flatnonzero(mask.any(axis=1))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def to_coco_rle(mask: np.ndarray) -> dict[str, object]:
    """A boolean mask (H, W) as COCO compressed RLE: {"size": [H, W], "counts": ASCII string}."""
    encoded = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(v) for v in encoded["size"]], "counts": encoded["counts"].decode("ascii")}


def from_coco_rle(rle: dict[str, object]) -> np.ndarray:
    """The boolean mask (H, W) of a COCO compressed RLE made by `to_coco_rle`."""
    counts = rle["counts"]
    assert isinstance(counts, str)
    return np.asarray(coco.decode({"size": rle["size"], "counts": counts.encode("ascii")}), dtype=bool)
