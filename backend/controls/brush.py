"""Masks to <BrushLabels>, as Label Studio's own run-length encoding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from backend.controls.base import Control, RegionContext
from backend.labels import match_label
from model.task import Task


@dataclass(frozen=True)
class Brush(Control):
    """Attributes: labels: the tag's label values."""

    labels: tuple[str, ...] = ()

    is_geometry = True

    @classmethod
    def matches(cls, tag: Any) -> bool:
        return tag.tag == "BrushLabels"

    @classmethod
    def create(cls, tag: Any) -> Brush:
        return cls(tag.name, tag.to_name[0], tuple(tag.labels))

    def has_label(self, label: str | None) -> bool:
        return label in self.labels

    def tasks(self) -> tuple[Task, ...]:
        return (Task.RECOGNIZE,)

    def item(self, context: RegionContext) -> dict[str, Any] | None:
        from label_studio_sdk.converter import brush

        # an empty mask is no region: Label Studio would list one that nobody can see
        if not context.region.area:
            return None
        value: dict[str, Any] = {"format": "rle", "rle": brush.mask2rle(context.mask.astype("uint8") * 255)}
        label = self.label(context)
        value["brushlabels"] = [label] if label is not None else []
        item = self.shell(context, "brushlabels", value, context.region.iou)
        if context.class_text:
            # the free answer is kept where the annotator can read it, also when no label of the project fits it
            item["meta"] = {"text": [context.class_text]}
        return item

    def label(self, context: RegionContext) -> str | None:
        """The annotator's own choice, else the label that the model's word names, else the only one there is.

        Never a label that the config lacks: Label Studio would show it as a blank name.
        """
        if context.label in self.labels:
            return context.label
        matched = match_label(context.class_text, self.labels)
        if matched is not None:
            return matched
        return self.labels[0] if len(self.labels) == 1 else None
