"""The class to <Taxonomy>, of a region or of the whole picture: the path from the root to the chosen leaf."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from backend.labeling.controls.base import Control, RegionContext
from backend.labeling.labels import Labels, path
from backend.labeling.tags import Tag


@dataclass(frozen=True)
class Taxonomy(Control):
    """Candidates are the leaves; inner nodes are no answer."""

    @classmethod
    def matches(cls, tag: Tag) -> bool:
        return tag.kind == "Taxonomy"

    @classmethod
    def create(cls, tag: Tag) -> Control:
        return cls(tag.name, tag.to_name, Labels.of(tag, nested=True), tag.per_region, tag.conditions)

    def item(self, context: RegionContext) -> dict[str, Any] | None:
        chosen = context.choose(self.labels)
        if not chosen:
            return None
        return self.shell(context, "taxonomy", {"taxonomy": [path(one.label) for one in chosen]}, chosen[0].probability)
