"""Prompts as people give them: clicks inside a thing, corrections in the largest error, tight and loose boxes."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from tiny.looks import box_of

Mask = NDArray[np.bool_]
Point = tuple[float, float, int]


def inside(rng: Generator, mask: Mask) -> Point:
    """A positive click (x, y, 1) on a mask with at least one pixel: anywhere, well inside, or about the middle."""
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    share = rng.choice([0.0, 0.3, 0.85], p=[0.35, 0.4, 0.25])
    rows, columns = np.nonzero((depth >= share * depth.max()) & mask)
    pick = rng.integers(len(rows))
    return columns[pick] + 0.5, rows[pick] + 0.5, 1


def middle(mask: Mask) -> Point:
    """The click (x, y, 1) farthest from the edge of a mask with at least one pixel: the literature's first click."""
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return float(column) + 0.5, float(row) + 0.5, 1


def correction(truth: Mask, guess: Mask) -> Point:
    """The next click: the deepest point of the larger of the two errors, 1 where the guess missed, 0 where it spilled.

    Where the guess is right everywhere, the middle of the truth.
    """
    depths = [
        cv2.distanceTransform(np.pad(wrong, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
        for wrong in (truth & ~guess, guess & ~truth)
    ]
    missed = depths[0].max() >= depths[1].max()
    depth = depths[0] if missed else depths[1]
    if not depth.any():
        return middle(truth)
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return float(column) + 0.5, float(row) + 0.5, int(missed)


def box(rng: Generator, mask: Mask) -> tuple[float, float, float, float]:
    """A hand-drawn box about a mask with at least one pixel: tight, or each side off by a share of the box, outwards.

    None cuts the thing: given as a rough mask, a box says that nothing lies beyond.
    """
    left, top, right, bottom = box_of(mask)
    slack = rng.choice([0.0, 0.03, 0.1], p=[0.55, 0.33, 0.12])
    wide, high = right - left, bottom - top
    off = np.abs(rng.normal(0.0, 1.0, 4)) * slack * np.array([wide, high, wide, high])
    x1, y1 = max(0.0, left - off[0]), max(0.0, top - off[1])
    x2, y2 = min(float(mask.shape[1]), right + off[2]), min(float(mask.shape[0]), bottom + off[3])
    return x1, y1, max(x1 + 2, x2), max(y1 + 2, y2)


def rough(rng: Generator, mask: Mask) -> Mask:
    """A mask as somebody would paint it: grown or shrunk, with a smoothed edge."""
    radius = int(rng.integers(1, 4))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    change = cv2.dilate if rng.random() < 0.6 else cv2.erode
    changed = change(mask.astype(np.uint8), kernel).astype(bool)
    return changed if changed.any() else mask


def iou(first: Mask, second: Mask) -> float:
    """Intersection over union of two masks of one shape; 1 when both are empty."""
    union = int((first | second).sum())
    return float((first & second).sum()) / union if union else 1.0
