"""The class to <Taxonomy>, of a region or of the whole picture: the path from the root to the chosen leaf."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from backend.job import Candidate
from backend.labeling.controls.base import Control, RegionContext
from backend.labeling.labels import Labels
from backend.labeling.tags import Tag

_SEPARATOR = " / "


@dataclass(frozen=True)
class Taxonomy(Control):
    """The label of a candidate is the path of its leaf, its parts joined; inner nodes are no answer."""

    @classmethod
    def matches(cls, tag: Tag) -> bool:
        return tag.kind == "Taxonomy"

    @classmethod
    def create(cls, tag: Tag) -> Control:
        leaves = tuple(
            Candidate(label=_SEPARATOR.join(path), names=child.names)
            for child, path in zip(tag.children, tag.paths, strict=True)
        )
        return cls(tag.name, tag.to_name, Labels(leaves), tag.per_region)

    def item(self, context: RegionContext) -> dict[str, Any] | None:
        chosen = context.choose(self.labels)
        if chosen is None:
            return None
        path = chosen.label.split(_SEPARATOR)
        return self.shell(context, "taxonomy", {"taxonomy": [path]}, chosen.probability)
