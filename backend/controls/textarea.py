"""Texts to a per-region <TextArea>."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from backend.controls.base import Control, RegionContext, is_per_region
from model.task import Task

_BY_NAME = (
    ("detail", Task.DETAILED),
    ("expla", Task.EXPLAIN),
    ("defin", Task.EXPLAIN),
    ("class", Task.RECOGNIZE),
    ("label", Task.RECOGNIZE),
)


@dataclass(frozen=True)
class RegionText(Control):
    """Attributes: task: the text that goes here."""

    task: Task = Task.BRIEF

    @classmethod
    def matches(cls, tag: Any) -> bool:
        return tag.tag == "TextArea" and is_per_region(tag)

    @classmethod
    def create(cls, tag: Any) -> RegionText:
        return cls(tag.name, tag.to_name[0], _task_of(tag))

    def tasks(self) -> tuple[Task, ...]:
        return (self.task,)

    def item(self, context: RegionContext) -> dict[str, Any] | None:
        text = context.region.texts.get(self.task)
        if text is None or not text.string:
            return None
        # always a list: a plain string blanks Label Studio's whole editor on accept
        return self.shell(context, "textarea", {"text": [text.string]}, text.score)


def _task_of(tag: Any) -> Task:
    """The attribute pallas="brief|detailed|explain|recognize", else the tag's name, else the brief caption."""
    wanted = str(tag.attr.get("pallas", "")).lower()
    if wanted in [task.value for task in Task]:
        return Task(wanted)
    name = tag.name.lower()
    return next((task for part, task in _BY_NAME if part in name), Task.BRIEF)
