"""The region's own label to a <Labels> tag that stands beside plain <Brush>, <Polygon>, <Rectangle>."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from backend.labeling.controls.base import Control, RegionContext
from backend.labeling.labels import Labels
from backend.labeling.tags import Tag


@dataclass(frozen=True)
class RegionLabels(Control):
    @classmethod
    def matches(cls, tag: Tag) -> bool:
        return tag.kind == "Labels"

    @classmethod
    def create(cls, tag: Tag) -> Control:
        return cls(tag.name, tag.to_name, Labels.of(tag))

    def item(self, context: RegionContext) -> dict[str, Any] | None:
        chosen = context.choose(self.labels)
        if chosen is None:
            return None
        return self.shell(context, "labels", {"labels": [chosen.label]}, chosen.probability or context.region.iou)
