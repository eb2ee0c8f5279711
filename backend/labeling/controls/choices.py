"""The class to <Choices>, of a region or of the whole picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from backend.labeling.controls.base import Control, RegionContext
from backend.labeling.tags import Tag


@dataclass(frozen=True)
class Choices(Control):
    @classmethod
    def matches(cls, tag: Tag) -> bool:
        return tag.kind == "Choices"

    def item(self, context: RegionContext) -> dict[str, Any] | None:
        chosen = context.choose(self.labels)
        if chosen is None:
            return None
        return self.shell(context, "choices", {"choices": [chosen.label]}, chosen.probability)
