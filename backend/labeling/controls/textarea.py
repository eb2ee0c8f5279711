"""Texts to <TextArea>, of a region or of the whole picture."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from backend.job import TextAsk
from backend.labeling.controls.base import CLASS, Control, RegionContext, cut_note
from backend.labeling.tags import Tag
from model.values.task import LANGUAGES, Task

_BY_NAME = (
    ("detail", Task.DETAILED),
    ("expla", Task.EXPLAIN),
    ("defin", Task.EXPLAIN),
    ("class", Task.RECOGNIZE),
    ("label", Task.RECOGNIZE),
)


@dataclass(frozen=True)
class TextArea(Control):
    """Attributes: ask: the text that goes here."""

    ask: TextAsk = CLASS

    @classmethod
    def matches(cls, tag: Tag) -> bool:
        return tag.kind == "TextArea"

    @classmethod
    def create(cls, tag: Tag) -> Control:
        return cls(tag.name, tag.to_name, per_region=tag.per_region, conditions=tag.conditions, ask=_ask_of(tag))

    def texts(self) -> tuple[TextAsk, ...]:
        return (self.ask,)

    def item(self, context: RegionContext) -> dict[str, Any] | None:
        text = context.region.texts.get(self.ask.key)
        if text is None or not text.string:
            return None
        # always a list: a plain string blanks Label Studio's whole editor on accept
        item = self.shell(context, "textarea", {"text": [text.string]}, text.score)
        return item if text.finished else item | {"meta": {"text": [cut_note(self.ask.key)]}}


def _ask_of(tag: Tag) -> TextAsk:
    """The attribute pallas="brief|detailed|explain|recognize" and "en|zh", else the tag's name, else the brief caption.

    As a name, `caption_zh` or `chinese_caption` ask for Chinese.
    """
    name = tag.name.lower()
    task = next((task for task in Task if task.value in tag.wishes), None)
    if task is None:
        task = next((task for part, task in _BY_NAME if part in name), Task.BRIEF)
    language = next((language for language in LANGUAGES if language in tag.wishes), None)
    if language is None:
        language = "zh" if "chinese" in name or re.search(r"(^|[^a-z])zh($|[^a-z])", name) else tag.language
    return TextAsk(task=task, language=language)
