"""From sightings to Label Studio's keyframes: as few as straight lines between them need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from backend.job import Sighting
from backend.label_studio.video_clock import Clock

Row = tuple[int, np.ndarray]
"""A frame number and the box on it: (x, y, width, height), percentages."""


def keyframes(sightings: Sequence[Sighting], clock: Clock, tolerance: float) -> list[dict[str, Any]]:
    """The `sequence` of a video region.

    Between two keyframes Label Studio moves the box on straight lines; a keyframe with `enabled` off is the last one on
    which it is shown, until the next keyframe.

    Args:
        sightings: by time.
        clock: of the <Video>.
        tolerance: how far each of x, y, width and height may be off between keyframes, per cent of the picture.

    Returns:
        An empty list where the object was never seen.
    """
    rows: dict[int, np.ndarray | None] = {}
    for time_s, box in sightings:
        # several frames of the file may fall on one of Label Studio's: the last one is what it shows
        rows[clock.frame(time_s)] = (
            None if box is None else np.array([box[0], box[1], box[2] - box[0], box[3] - box[1]], dtype=float)
        )
    runs: list[list[Row]] = [[]]
    ends: list[bool] = []
    for frame, row in sorted(rows.items()):
        if row is not None:
            runs[-1].append((frame, row))
        elif runs[-1]:
            ends.append(True)
            # it was there until the frame before the one on which it was missed first
            runs[-1].append((frame - 1, runs[-1][-1][1])) if frame - 1 > runs[-1][-1][0] else None
            runs.append([])
    ends.append(False)
    sequence: list[dict[str, Any]] = []
    for run, gone in zip(runs, ends, strict=True):
        if run and not sequence and run[0][0] > 1 and run[0][0] != min(rows):
            # without this Label Studio would show the first box from the beginning on
            sequence.append(_keyframe(1, run[0][1], False, clock))
        kept = [run[i] for i in _needed(run, tolerance)]
        sequence += [_keyframe(frame, row, not (gone and frame == run[-1][0]), clock) for frame, row in kept]
    return sequence


def _needed(run: Sequence[Row], tolerance: float) -> list[int]:
    """Indexes of the rows that straight lines need, the first and the last among them (Ramer, Douglas, Peucker)."""
    if len(run) < 3:
        return list(range(len(run)))
    frames = np.array([frame for frame, _ in run], dtype=float)
    boxes = np.stack([row for _, row in run])
    needed = {0, len(run) - 1}
    open_ = [(0, len(run) - 1)]
    while open_:
        first, last = open_.pop()
        if last - first < 2:
            continue
        inner = slice(first + 1, last)
        share = ((frames[inner] - frames[first]) / (frames[last] - frames[first]))[:, None]
        away = np.abs(boxes[inner] - (boxes[first] + share * (boxes[last] - boxes[first]))).max(axis=1)
        worst = int(away.argmax())
        if away[worst] > tolerance:
            middle = first + 1 + worst
            needed.add(middle)
            open_ += [(first, middle), (middle, last)]
    return sorted(needed)


def _keyframe(frame: int, row: np.ndarray, enabled: bool, clock: Clock) -> dict[str, Any]:
    x, y, width, height = (round(float(value), 3) for value in row)
    return {
        **{"frame": frame, "enabled": enabled, "rotation": 0},
        **{"x": x, "y": y, "width": width, "height": height, "time": round(frame / clock.rate, 4)},
    }
