"""What somebody has marked in a video already: which boxes are to be tracked."""

from __future__ import annotations

import logging
import math
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from backend.errors import PromptError
from backend.job import ClipMark, ClipObject, Drawing
from backend.label_studio.geometry import hull
from backend.label_studio.protocol import RegionValue, ResultItem, items_of
from backend.label_studio.video_clock import time_of
from backend.labeling.video_roles import VideoRoles

log = logging.getLogger(__name__)

RECTANGLE = "videorectangle"

_TURNED = {"x", "y", "width", "height", "rotation"}

MOST_MARKS = 32
"""Keyframes of one region that are used, evenly spread from the first to the last."""


@dataclass(frozen=True)
class Drawn:
    """A box that a person drew, with the id of its region in Label Studio."""

    id: str
    asked: ClipObject


def boxes(result: Sequence[dict[str, Any]], video: VideoRoles, rate: float, ours: Container[str] = ()) -> list[Drawn]:
    """The boxes of one <Video> that a person drew on frames; those that were tracked before are left out.

    Args:
        result: of a draft or an annotation, or the context of a request.
        video: the roles.
        rate: Label Studio's frames per second.
        ours: ids of regions that we answered.
    """
    found = []
    for item in items_of(result):
        if item.type != RECTANGLE or item.to_name != video.name or item.id is None:
            continue
        # Label Studio marks what came from a prediction, also after it was accepted
        if item.id in ours or item.origin.startswith("prediction"):
            continue
        try:
            found.append(Drawn(item.id, _object(item, video, rate)))
        except PromptError as error:
            # one region that cannot be read must not cost the others
            log.info("region %s is left out: %s", ascii(item.id), error)
    return found


def _object(item: ResultItem, video: VideoRoles, rate: float) -> ClipObject:
    return clip_object((item.value.model_extra or {}).get("sequence"), video.chosen(item), rate)


def clip_object(sequence: Any, labels: tuple[str, ...], rate: float) -> ClipObject:
    """A thing to follow, from keyframes as Label Studio has them; those that are switched off say nothing.

    Raises:
        PromptError: there is no box in them, or one that cannot be read.
    """
    if not isinstance(sequence, list) or not sequence:
        raise PromptError("the region has no keyframes: draw it again")
    marks: dict[int, ClipMark] = {}
    for keyframe in sequence:
        if not isinstance(keyframe, dict) or keyframe.get("enabled") is False:
            continue
        frame = keyframe.get("frame")
        if not isinstance(frame, int | float) or not math.isfinite(frame):
            raise PromptError(f"a keyframe has the number {frame!r}: draw the region again")
        try:
            value = RegionValue.model_validate(keyframe)
            box = hull("rectangle", value)
        except ValidationError:
            raise PromptError(f"the box on frame {frame:g} has no numbers: draw it again") from None
        turned = Drawing(kind="rectangle", value=value.model_dump(include=_TURNED)) if value.rotation else None
        marks[int(frame)] = ClipMark(
            time_s=time_of(int(frame), rate), box=None if turned is not None else box, drawing=turned
        )
    if not marks:
        raise PromptError("no keyframe of the region is switched on")
    frames = sorted(marks)
    if len(frames) > MOST_MARKS:
        # each is a frame to encode before the first one is tracked
        frames = [frames[round(i * (len(frames) - 1) / (MOST_MARKS - 1))] for i in range(MOST_MARKS)]
    return ClipObject(marks=tuple(marks[frame] for frame in frames), labels=labels)
