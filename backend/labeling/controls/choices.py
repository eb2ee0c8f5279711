"""The class to <Choices>, of a region or of the whole picture; with allowNested="true" its path from the root."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from backend.labeling.controls.base import Control, RegionContext
from backend.labeling.labels import Labels, path
from backend.labeling.tags import Tag


@dataclass(frozen=True)
class Choices(Control):
    """Attributes: nested: Label Studio wants paths, also of choices at the root."""

    nested: bool = False

    @classmethod
    def matches(cls, tag: Tag) -> bool:
        return tag.kind == "Choices"

    @classmethod
    def create(cls, tag: Tag) -> Control:
        nested = tag.is_set("allownested")
        return cls(tag.name, tag.to_name, Labels.of(tag, nested), tag.per_region, tag.conditions, nested)

    def item(self, context: RegionContext) -> dict[str, Any] | None:
        chosen = context.choose(self.labels)
        if not chosen:
            return None
        labels = [path(one.label) if self.nested else one.label for one in chosen]
        return self.shell(context, "choices", {"choices": labels}, chosen[0].probability)
