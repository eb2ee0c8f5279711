"""The classes of an export: the config's labels in the config's order, then what the work has besides."""

from __future__ import annotations

from collections.abc import Sequence

from backend.label_studio.geometry import KINDS, kind_of
from backend.labeling.roles import Roles
from backend.labeling.tags import Tag

UNLABELLED = "unlabelled"


class Categories:
    """Names by their place, from 0; names that the config lacks come after its own, in order of appearance.

    Args:
        roles: of the config.
        more: names that came up before, of an export that goes on.
    """

    def __init__(self, roles: Roles, more: Sequence[str] = ()) -> None:
        drawn = [tag for tag in roles.tags.values() if _labels_regions(tag)]
        chosen = [tag for tag in roles.tags.values() if tag.kind in ("Choices", "Taxonomy") and tag.per_region]
        tags = [tag for tag in drawn if tag.children] or chosen[:1]
        self.own = tuple(dict.fromkeys(child.value for tag in tags for child in tag.children))
        self._places = {name: place for place, name in enumerate(dict.fromkeys((*self.own, *more)))}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._places)

    @property
    def more(self) -> tuple[str, ...]:
        """Those that the config lacks."""
        return self.names[len(self.own) :]

    def place(self, name: str | None) -> int:
        """The number of a region's class; a region without one has a class of its own."""
        return self._places.setdefault(name or UNLABELLED, len(self._places))


def _labels_regions(tag: Tag) -> bool:
    return tag.kind == "Labels" or (tag.kind.endswith("Labels") and kind_of(tag.kind.lower()) in KINDS)
