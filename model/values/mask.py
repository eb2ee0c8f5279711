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


def to_rle(mask: np.ndarray) -> dict[str, object]:
    """A boolean mask (H, W) as {"size": [H, W], "rows": ASCII string}: COCO's compression, but row by row.

    COCO runs down the columns, which lie apart in memory: of a large picture, turning takes longer than all the rest.
    """
    # a picture whose columns are our rows
    encoded = coco.encode(np.ascontiguousarray(mask).view(np.uint8).T)
    return {"size": [int(v) for v in mask.shape], "rows": encoded["counts"].decode("ascii")}


def from_rle(rle: dict[str, object]) -> np.ndarray:
    """The boolean mask (H, W) of an RLE made by `to_rle` or by `to_coco_rle`."""
    size = rle["size"]
    assert isinstance(size, (list, tuple))
    if "counts" in rle:
        decoded = coco.decode({"size": list(size), "counts": str(rle["counts"]).encode("ascii")})
    else:
        decoded = coco.decode({"size": list(size)[::-1], "counts": str(rle["rows"]).encode("ascii")}).T
    return np.asarray(decoded).view(bool)


def row_runs(rle: dict[str, object]) -> np.ndarray:
    """The lengths (N,) int64 of an RLE's runs, row by row; the first is outside (0 if there is none), the next inside.

    One that `to_rle` made is not decoded for it: of a large picture, its pixels take longer than all its runs.
    """
    if "rows" not in rle:
        flat = from_rle(rle).ravel()
        starts = np.flatnonzero(flat[1:] != flat[:-1]) + 1
        lengths = np.diff(np.concatenate([[0], starts, [flat.size]]))
        return np.concatenate([[0], lengths]) if flat.size and flat[0] else lengths
    # COCO's compression: five bits a character, the lowest first, a sixth where more follow; from the fourth number on
    # it is the difference to the last but one
    codes = np.frombuffer(str(rle["rows"]).encode("ascii"), np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero(codes & 0x20 == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    places = 5 * (np.arange(len(codes)) - np.repeat(starts, ends - starts + 1))
    numbers = np.add.reduceat((codes & 0x1F) << places, starts)
    negative = codes[ends] & 0x10 != 0
    numbers[negative] -= 1 << (places[ends][negative] + 5)
    numbers[1::2] = numbers[1::2].cumsum()
    numbers[2::2] = numbers[2::2].cumsum()
    return numbers


def rle_area(rle: dict[str, object]) -> int:
    """Pixels in the mask of an RLE, which is not decoded for it."""
    counts = str(rle["counts"] if "counts" in rle else rle["rows"]).encode("ascii")
    return int(coco.area({"size": rle["size"], "counts": counts}))


def rle_at(rle: dict[str, object], row: int, column: int) -> bool:
    """Whether a pixel is in the mask of an RLE, which is not decoded for it."""
    size = rle["size"]
    assert isinstance(size, (list, tuple))
    height, width = size
    if "counts" in rle:
        counts, size, before = str(rle["counts"]), [height, width], column * height + row
    else:
        counts, size, before = str(rle["rows"]), [width, height], row * width + column
    pixel = coco.frPyObjects({"size": size, "counts": [before, 1, height * width - before - 1]}, *size)
    return bool(coco.iou([{"size": size, "counts": counts.encode("ascii")}], [pixel], [0])[0, 0] > 0)


def mask_iou(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two boolean masks of one size, 0..1; 0 where both are empty."""
    return float((one & other).sum() / max((one | other).sum(), 1))
