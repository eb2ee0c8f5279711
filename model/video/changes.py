"""Where one event ends and the next begins: a thing comes or goes, starts, stops or turns, or the scene is another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from model.values.mask import Box
from model.values.region import Segment

WINDOW = 6
"""Frames before and after a moment that are compared."""

# Window and thresholds were chosen on tracks of 40 generated clips of the validation split, at 8 frames a second: 0.875
# of the changes found within 3 frames, 0.25 events too many a clip (with 4, 0.004, 0.009 and 0.35: 0.80 and 0.53).
_THUMBNAIL = 24  # pixels a side, to compare whole frames
_CUT = 0.22  # mean difference of two thumbnails, 0..1, from which they are of two scenes
_STILL = 0.003  # of the picture's diagonal a frame: slower is standing still
_MOVING = 0.007  # faster is moving; between the two nothing is said
_TURN = 0.5  # cosine of two headings, below which the thing has turned (60 degrees)


@dataclass(frozen=True, eq=False)
class Moment:
    """What is compared of one frame: the object's box in pixels (None: not seen), and a grey thumbnail, 0..1."""

    box: Box | None
    thumbnail: np.ndarray

    @classmethod
    def of(cls, picture: Image.Image, region: Segment) -> Moment:
        small = picture.convert("L").resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX)
        return cls(region.box, np.asarray(small, dtype=np.float32) / 255)


class Changes:
    """Looks at frame after frame for the first change, and where exactly it happens.

    Args:
        diagonal: of the picture, pixels.
    """

    def __init__(self, diagonal: float) -> None:
        self._diagonal = diagonal
        self._moments: list[Moment] = []
        self._best: tuple[float, int] = 0.0, 0
        """The clearest change so far, and its frame."""

    def add(self, moment: Moment) -> int | None:
        """The next frame; the number of the frame from which on things are different, once that is sure."""
        self._moments.append(moment)
        edge = len(self._moments) - WINDOW
        if edge >= WINDOW:
            # a window that lies half across a change sees it too: the clearest of neighbours counts
            self._best = max(self._best, (_difference(self._moments[edge - WINDOW :], self._diagonal), edge))
        return self._best[1] if self._best[0] and edge >= self._best[1] + WINDOW - 1 else None

    def last(self) -> int | None:
        """As `add`, when no more frames come."""
        return self._best[1] if self._best[0] else None


def _difference(moments: Sequence[Moment], diagonal: float) -> float:
    """How clear a change is between the first and the second half of 2 · WINDOW successive frames; 0 where none is."""
    before, after = moments[:WINDOW], moments[WINDOW:]
    if np.abs(before[-1].thumbnail - after[0].thumbnail).mean() > _CUT:
        return 3.0
    seen_before, seen_after = ([moment.box is not None for moment in part] for part in (before, after))
    left = all(seen_before) and not any(seen_after)
    came = not any(seen_before) and all(seen_after)
    if left or came:
        return 2.0
    if not (all(seen_before) and all(seen_after)):
        return 0.0
    one, two = _velocity(before) / diagonal, _velocity(after) / diagonal
    slow, fast = sorted((float(np.hypot(*one)), float(np.hypot(*two))))
    started = slow < _STILL and fast > _MOVING
    turned = slow > _MOVING and float(one @ two) / (slow * fast) < _TURN
    return float(np.hypot(*(two - one))) if started or turned else 0.0


def _velocity(moments: Sequence[Moment]) -> np.ndarray:
    """(x, y) pixels a frame, of the middle of the box: the slope of the straight line through the frames."""
    middles = np.array([[(m.box[0] + m.box[2]) / 2, (m.box[1] + m.box[3]) / 2] for m in moments if m.box is not None])
    times = np.arange(len(middles)) - (len(middles) - 1) / 2
    return times @ middles / (times @ times)
