"""What the controls of one <Video> are for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from backend.job import ClipAsk, LabelSet, TextAsk
from backend.label_studio.editor import OUTPUTS
from backend.label_studio.protocol import ResultItem
from backend.label_studio.variables import placed, value_of
from backend.label_studio.video_clock import rate_of
from backend.labeling.controls import Control
from backend.labeling.controls.base import CLASS
from backend.labeling.controls.choices import Choices
from backend.labeling.controls.labels import RegionLabels
from backend.labeling.controls.taxonomy import Taxonomy
from backend.labeling.controls.textarea import TextArea
from backend.labeling.labels import Labels
from backend.labeling.tags import Tag

_WORDS: tuple[type[Control], ...] = (Choices, Taxonomy, TextArea)


@dataclass(frozen=True)
class Timeline:
    """A <TimelineLabels>: its name and its labels."""

    name: str
    labels: Labels


@dataclass(frozen=True)
class VideoRoles:
    """The roles of the controls of one <Video>.

    Attributes:
        name: of the tag.
        value: where its video is in a task's data, e.g. `$video`.
        attributes: of the tag, for its frame rate.
        rectangle: name of the <VideoRectangle>, or None.
        labels: of the <Labels> beside it.
        timeline: receives events, or None.
        words: what receives classes and texts of a region.
        whole: what receives words about the whole video.
        language: of captions, where no control says.
        known: the labels of every control of the video by its name.
        outputs: the names of its controls by their kind, e.g. VideoRectangle: the Enterprise editor has more of them.
    """

    name: str
    value: str
    attributes: Mapping[str, str] = field(default_factory=dict)
    rectangle: str | None = None
    labels: Labels = field(default_factory=Labels)
    timeline: Timeline | None = None
    words: tuple[Control, ...] = ()
    whole: tuple[Control, ...] = ()
    language: str = "en"
    known: Mapping[str, Labels] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, video: Tag, tags: Sequence[Tag]) -> VideoRoles:
        """Of a <Video> and the controls that are for it."""
        mine = [tag for tag in tags if not tag.wishes & {"off", "notice"}]
        rectangle = next((tag for tag in mine if tag.kind == "VideoRectangle"), None)
        labels = next((RegionLabels.create(tag).labels for tag in mine if tag.kind == "Labels"), Labels())
        timeline = next((Timeline(tag.name, Labels.of(tag)) for tag in mine if tag.kind == "TimelineLabels"), None)
        words = [kind.create(tag) for kind in _WORDS for tag in mine if kind.matches(tag)]
        return cls(
            name=video.name,
            value=video.attributes["value"],
            attributes=video.attributes,
            rectangle=rectangle.name if rectangle is not None else None,
            labels=labels,
            timeline=timeline,
            words=tuple(control for control in words if control.per_region),
            whole=tuple(control for control in words if not control.per_region),
            language=next((tag.language for tag in mine), "en"),
            known={tag.name: Labels.of(tag) for tag in tags},
            outputs={tag.kind: tag.name for tag in reversed(mine)},
        )

    @property
    def key(self) -> str:
        """Of its video in a task's data, as messages call it."""
        return self.value.removeprefix("$")

    def address(self, data: Mapping[str, Any]) -> str | None:
        """Of a task's video; None where the task has none."""
        found = value_of(self.value, data)
        return found if isinstance(found, str) and found.strip() else None

    def data_of(self, address: str) -> dict[str, Any]:
        """The data of a task with this video alone."""
        return placed(self.value, address)

    def chosen(self, item: ResultItem) -> tuple[str, ...]:
        """The labels of an item by their values, which are the same in every control."""
        # a <VideoRectangle> has its labels from the <Labels> beside it
        own = self.known.get(item.from_name) or self.labels
        return own.values_of(item.labels())

    @property
    def useful(self) -> bool:
        """Whether any of it can take an answer."""
        # of the other outputs only the Enterprise editor has any use on a video
        return self.rectangle is not None or bool(self.whole) or any(kind in OUTPUTS for kind in self.outputs)

    def rate(self, data: Mapping[str, Any]) -> float:
        """Label Studio's frames per second in a task with this data."""
        return rate_of(self.attributes, data)

    def ask(self) -> ClipAsk:
        """The questions about objects."""
        timeline = self.timeline
        return ClipAsk(
            # the model's own word is asked always: it is kept where no label of the project fits
            texts=tuple(dict.fromkeys((CLASS, *_texts(self.words)))),
            label_sets=_sets([self.labels, *(control.labels for control in self.words)]),
            events=self.language if timeline is not None else None,
            event_labels=timeline.labels.label_set if timeline is not None and timeline.labels else None,
        )

    def ask_whole(self, ask: ClipAsk) -> ClipAsk:
        """The questions about the whole video on top."""
        return ask.model_copy(
            update={"whole": _texts(self.whole), "whole_sets": _sets([control.labels for control in self.whole])}
        )


def _texts(controls: Sequence[Control]) -> tuple[TextAsk, ...]:
    return tuple(dict.fromkeys(ask for control in controls for ask in control.texts()))


def _sets(some: Sequence[Labels]) -> tuple[LabelSet, ...]:
    sets: list[LabelSet] = []
    for labels in some:
        if labels and labels.label_set not in sets:
            sets.append(labels.label_set)
    return tuple(sets)
