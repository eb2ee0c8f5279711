"""Tracked sequences compared: the one that was answered, and the one that a person saved."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

Keyframe = tuple[float, bool, float, float, float, float]
"""Frame, enabled, x, y, width, height: percentages of the picture."""

MOST_FRAMES = 2_000
"""Frames that are compared, evenly spread; a sequence may say anything about its length."""


def keyframes_of(value: dict[str, Any]) -> tuple[Keyframe, ...]:
    """The keyframes of a video region, by frame; what has no numbers is left out."""
    found: dict[float, Keyframe] = {}
    sequence = value.get("sequence")
    for one in sequence if isinstance(sequence, list) else ():
        try:
            x, y, width, height = (float(one[key]) for key in ("x", "y", "width", "height"))
            frame = float(one["frame"])
        except (KeyError, TypeError, ValueError):
            continue
        if np.isfinite((frame, x, y, width, height)).all():
            found[frame] = (frame, one.get("enabled") is not False, x, y, width, height)
    return tuple(found[frame] for frame in sorted(found))


def sequence_j(one: Sequence[Keyframe], other: Sequence[Keyframe], frames: int) -> float:
    """J: the mean over frames of the boxes' IoU, 0..1; 1 on frames on which neither is shown.

    Args:
        one, other: keyframes by frame.
        frames: of the video.
    """
    numbers = np.unique(np.linspace(1, max(1, frames), min(max(1, frames), MOST_FRAMES)).round())
    pairs = zip(boxes_on(one, numbers), boxes_on(other, numbers), strict=True)
    return float(np.mean([_iou(a, b) for a, b in pairs]))


def boxes_on(sequence: Sequence[Keyframe], numbers: np.ndarray) -> Iterator[tuple[float, ...] | None]:
    """What Label Studio draws on each of these frames: straight lines, nothing after a keyframe that is off."""
    if not sequence:
        yield from (None for _ in numbers)
        return
    table = np.array([(row[0], *row[2:]) for row in sequence], dtype=float)
    drawn = np.stack([np.interp(numbers, table[:, 0], column) for column in table[:, 1:].T], axis=1)
    before = np.maximum(np.searchsorted(table[:, 0], numbers, side="right") - 1, 0)
    for number, row, index in zip(numbers, drawn, before, strict=True):
        frame, enabled = sequence[index][0], sequence[index][1]
        yield tuple(row) if enabled or frame == number else None


def _iou(one: tuple[float, ...] | None, other: tuple[float, ...] | None) -> float:
    if one is None or other is None:
        return float(one is other)
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    both = max(0.0, width) * max(0.0, height)
    whole = one[2] * one[3] + other[2] * other[3] - both
    return both / whole if whole > 0 else 0.0
