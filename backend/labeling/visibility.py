"""When Label Studio shows a control: `visibleWhen`, `whenTagName`, `whenLabelValue`, `whenChoiceValue`, `whenRole`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_CHOOSING = ("choices", "taxonomy")
_RELEVANT = ("visiblewhen", "whentagname", "whenlabelvalue", "whenchoicevalue", "whenrole")


@dataclass(frozen=True)
class Condition:
    """Of one tag: the control's own, or that of a <View> around it.

    Attributes:
        when: region-selected, choice-selected, choice-unselected, no-region-selected, or empty.
        tag: name of the control whose label or choice counts; empty: any.
        labels, choices: of which one must be there; empty: any, or none at all where only `tag` counts.
        role: of a chat's message; no region of a picture or video has one.
    """

    when: str = ""
    tag: str = ""
    labels: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    role: str = ""

    @classmethod
    def of(cls, attributes: Mapping[str, str]) -> Condition | None:
        """Of a tag's attributes, names in lower case; None where it is shown always."""
        if not any(attributes.get(name) for name in _RELEVANT):
            return None
        return cls(
            attributes.get("visiblewhen", ""),
            attributes.get("whentagname", ""),
            _listed(attributes.get("whenlabelvalue", "")),
            _listed(attributes.get("whenchoicevalue", "")),
            attributes.get("whenrole", ""),
        )

    def holds(self, items: Sequence[Mapping[str, Any]]) -> bool:
        """Whether a control is shown for a region with these items, or for a picture with these, none of a region."""
        if self.when == "no-region-selected":
            return not any("original_width" in item for item in items)
        if self.when == "choice-unselected":
            return not self._chosen(items)
        if self.when == "choice-selected":
            return self._chosen(items)
        if self.labels or self.when == "region-selected" or (self.tag and not self.choices):
            return self._labelled(items)
        return not self.role and (not self.choices or self._chosen(items))

    def _labelled(self, items: Sequence[Mapping[str, Any]]) -> bool:
        shapes = [item for item in items if item.get("type") not in (*_CHOOSING, "textarea")]
        mine = [item for item in shapes if not self.tag or item.get("from_name") == self.tag]
        if not self.labels:
            return bool(mine) and not self.role
        return not set(self.labels).isdisjoint(_said(mine))

    def _chosen(self, items: Sequence[Mapping[str, Any]]) -> bool:
        mine = [
            item
            for item in items
            if item.get("type") in _CHOOSING and (not self.tag or item.get("from_name") == self.tag)
        ]
        said = set(_said(mine))
        return bool(said) if not self.choices else not said.isdisjoint(self.choices)


def visible(conditions: Iterable[Condition], items: Sequence[Mapping[str, Any]]) -> bool:
    """Whether all conditions hold."""
    return all(condition.holds(items) for condition in conditions)


def _said(items: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    """Labels and choices of items; of a path its last part."""
    for item in items:
        value, kind = item.get("value") or {}, str(item.get("type", ""))
        found = value.get(kind) or value.get("labels") or ()
        for one in found if isinstance(found, list) else ():
            yield str(one[-1]) if isinstance(one, list) and one else str(one)


def _listed(text: str) -> tuple[str, ...]:
    """The whole text counts too: a label may have a comma in it."""
    return tuple(dict.fromkeys((text, *text.split(",")))) if text else ()
