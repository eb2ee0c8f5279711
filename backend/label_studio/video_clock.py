"""Label Studio's frames and our seconds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backend.label_studio.variables import value_of

DEFAULT_RATE = 24.0

_SLACK = 1e-3  # of a frame: times are rounded on their way


@dataclass(frozen=True)
class Clock:
    """Frame numbers of one <Video>: from 1, frame f stands for the time from (f - 1) / rate to f / rate.

    They follow from the tag's frame rate alone, whatever rate the file has, also where that varies: Label Studio shows
    what the player shows at a frame's time.

    Attributes:
        rate: frames per second.
        duration_s: of the video, as players show it.
    """

    rate: float
    duration_s: float

    @property
    def count(self) -> int:
        """Label Studio's framesCount."""
        return max(1, math.ceil(self.duration_s * self.rate - _SLACK))

    def frame(self, time_s: float) -> int:
        """The first frame that shows what is on the screen from a time on."""
        return min(max(1, math.ceil(time_s * self.rate - _SLACK) + 1), self.count)

    def frame_before(self, time_s: float) -> int:
        """The last frame that begins before a time."""
        return min(max(1, math.ceil(time_s * self.rate - _SLACK)), self.count)


def time_of(frame: int, rate: float) -> float:
    """When a frame begins, seconds; it does not depend on the duration."""
    return max(0, frame - 1) / rate


def rate_of(attributes: Mapping[str, str], data: Mapping[str, Any]) -> float:
    """The frame rate of a <Video>, as Label Studio reads it: a number, `$field` of the task, or 24.

    Numbers below 1 are seconds per frame.
    """
    raw = next((value for name, value in attributes.items() if name.lower() == "framerate"), "")
    value: Any = value_of(raw, data)
    try:
        rate = float(value)
    except (TypeError, ValueError):
        return DEFAULT_RATE
    if not math.isfinite(rate) or rate <= 0:
        return DEFAULT_RATE
    return 1 / rate if rate < 1 else rate
