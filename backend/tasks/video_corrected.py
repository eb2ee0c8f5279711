"""Tracked regions that a person has corrected: on which frames, and what becomes of the track from there on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backend.errors import PromptError
from backend.job import ClipObject, Sighting
from backend.label_studio.protocol import ResultItem, items_of
from backend.label_studio.video_clock import Clock
from backend.label_studio.video_sequences import Keyframe, keyframes_of
from backend.labeling.video_roles import VideoRoles
from backend.tasks.answers import Remembered
from backend.tasks.video_drawn import RECTANGLE, clip_object
from backend.tasks.video_keyframes import keyframes

_SAME = 0.05
"""Per cent of the picture by which a saved keyframe may differ from ours and still be ours."""


@dataclass(frozen=True)
class Correction:
    """One tracked region whose box a person moved on some frames.

    Attributes:
        id: of the region in Label Studio.
        sequence: as it is saved, by frame.
        own: the frames of the keyframes that are the person's.
        asked: the person's boxes, from which it is tracked on.
    """

    id: str
    sequence: tuple[dict[str, Any], ...]
    own: frozenset[int]
    asked: ClipObject

    @property
    def first(self) -> int:
        """The first frame that is the person's."""
        return min(self.own)

    def tracked_on(self, sightings: Sequence[Sighting], clock: Clock, tolerance: float) -> list[dict[str, Any]]:
        """The new sequence: as it was before the correction, the person's keyframes, and what is tracked from there."""
        if not sightings:
            return list(self.sequence)
        frames = {int(one["frame"]): one for one in keyframes(sightings, clock, tolerance)}
        own = {int(one["frame"]): one for one in self.sequence if int(one["frame"]) in self.own}
        found = {int(one["frame"]): one for one in self.sequence if int(one["frame"]) < self.first} | own
        for frame, one in frames.items():
            # where the person switched it off it stays off, until the person's next box
            before = own.get(max((mine for mine in own if mine <= frame), default=0), {"enabled": False})
            if frame not in own and before.get("enabled") is not False:
                found[frame] = one
        return [found[frame] for frame in sorted(found)]


def corrections(
    result: Sequence[dict[str, Any]], video: VideoRoles, rate: float, ours: Mapping[str, Remembered]
) -> list[Correction]:
    """The regions of one <Video> that we tracked and a person has corrected.

    Args:
        result: of a draft or an annotation.
        video: the roles.
        rate: Label Studio's frames per second.
        ours: what we answered, by the region's id.
    """
    found = []
    for item in items_of(result):
        known = ours.get(item.id or "")
        if item.type != RECTANGLE or item.to_name != video.name or known is None or not known.sequence:
            continue
        own = _moved(item, known)
        value = item.value.model_extra or {}
        sequence = [one for one in value.get("sequence") or () if _number(one) is not None]
        sequence.sort(key=lambda one: int(one["frame"]))
        boxes = [one for one in sequence if int(one["frame"]) in own and one.get("enabled") is not False]
        if not boxes or own - {int(one["frame"]) for one in sequence}:
            continue
        try:
            asked = clip_object(boxes, video.chosen(item), rate)
        except PromptError:
            continue
        # what was switched off before the first box needs no tracking
        first = min(int(one["frame"]) for one in boxes)
        own = frozenset(frame for frame in own if frame >= first)
        found.append(Correction(known.id, tuple(sequence), own, asked))
    return found


def corrected_ids(result: Sequence[dict[str, Any]], ours: Mapping[str, Remembered]) -> frozenset[str]:
    """The ids of regions that we tracked and in which a keyframe is not ours any more."""
    items = [item for item in items_of(result) if item.type == RECTANGLE and item.id in ours]
    return frozenset(item.id for item in items if item.id and ours[item.id].sequence and _moved(item, ours[item.id]))


def _moved(item: ResultItem, known: Remembered) -> frozenset[int]:
    """The frames of the saved keyframes that are not ours."""
    answered = {one[0]: one for one in known.sequence}
    value = item.value.model_extra or {}
    turned = {int(one["frame"]) for one in value.get("sequence") or () if _number(one) and one.get("rotation")}
    moved = set(turned)
    for one in keyframes_of(value):
        before = answered.get(one[0])
        if before is None or before[1] != one[1] or _apart(before, one) > _SAME:
            moved.add(int(one[0]))
    return frozenset(moved)


def _apart(one: Keyframe, other: Keyframe) -> float:
    return max(abs(a - b) for a, b in zip(one[2:], other[2:], strict=True))


def _number(keyframe: Any) -> float | None:
    """The frame of a keyframe, or None where it is none."""
    frame = keyframe.get("frame") if isinstance(keyframe, dict) else None
    return float(frame) if isinstance(frame, int | float) else None
