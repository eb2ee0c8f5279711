"""The region's own label to a <Labels> tag that stands beside plain <Brush>, <Polygon>, <Rectangle>.

Label Studio keeps the geometry in this item too, and its exports read it there.
"""

from __future__ import annotations

from collections.abc import Sequence
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
        return cls(tag.name, tag.to_name, Labels.of(tag), conditions=tag.conditions)

    def item(self, context: RegionContext) -> dict[str, Any] | None:
        chosen = context.choose(self.labels)
        if not chosen:
            return None
        score = chosen[0].probability or context.region.iou
        return self.shell(context, "labels", {"labels": [one.label for one in chosen]}, score)

    @staticmethod
    def with_geometry(items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """A region's items, geometry first, with the geometry in those of <Labels> as well."""
        if not items:
            return []
        shape = {k: v for k, v in items[0].get("value", {}).items() if not k.endswith("labels")}
        return [item | {"value": shape | item["value"]} if item.get("type") == "labels" else item for item in items]
