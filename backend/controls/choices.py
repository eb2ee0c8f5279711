"""The class to a per-region <Choices>."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from backend.controls.base import Control, RegionContext, is_per_region
from backend.labels import match_label
from model.task import Task


@dataclass(frozen=True)
class RegionChoices(Control):
    """Attributes: choices: the tag's choice values."""

    choices: tuple[str, ...] = ()

    @classmethod
    def matches(cls, tag: Any) -> bool:
        return tag.tag == "Choices" and is_per_region(tag)

    @classmethod
    def create(cls, tag: Any) -> RegionChoices:
        return cls(tag.name, tag.to_name[0], tuple(tag.labels))

    def tasks(self) -> tuple[Task, ...]:
        return (Task.RECOGNIZE,)

    def item(self, context: RegionContext) -> dict[str, Any] | None:
        choice = match_label(context.class_text, self.choices)
        if choice is None:
            return None
        score = context.region.texts[Task.RECOGNIZE].score
        return self.shell(context, "choices", {"choices": [choice]}, score)
