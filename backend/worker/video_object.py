"""One object of a video under way, and the reply about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from backend.job import EventReply, LabelReply, ObjectReply, Sighting, TextReply
from backend.worker.video_checkpoint import ObjectSoFar


@dataclass
class TrackedObject:
    """What is known of one object so far."""

    sightings: dict[float, Sighting] = field(default_factory=dict)
    ious: list[float] = field(default_factory=list)
    texts: dict[str, TextReply] = field(default_factory=dict)
    labels: tuple[LabelReply, ...] = ()
    events: list[EventReply] = field(default_factory=list)
    told: int | None = None
    masks: dict[float, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, kept: ObjectSoFar) -> TrackedObject:
        found = kept.found
        return cls(
            sightings={sighting[0]: sighting for sighting in found.sightings},
            ious=[found.iou] * kept.seen,
            texts=found.texts,
            labels=found.labels,
            events=list(found.events),
            told=kept.told,
            masks=dict(found.masks),
        )

    def box_before(self, time_s: float) -> tuple[float, float, float, float] | None:
        """Where it was seen last before a time; else where it is seen first."""
        seen = [one for one in self.reply().sightings if one[1] is not None]
        earlier = [one for one in seen if one[0] < time_s]
        return earlier[-1][1] if earlier else seen[0][1] if seen else None

    def reply(self) -> ObjectReply:
        return ObjectReply(
            sightings=tuple(self.sightings[time_s] for time_s in sorted(self.sightings)),
            iou=float(np.clip(np.mean(self.ious), 0, 1)) if self.ious else 0.0,
            texts=self.texts,
            labels=self.labels,
            events=tuple(self.events),
            masks=tuple((time_s, self.masks[time_s]) for time_s in sorted(self.masks)),
        )
