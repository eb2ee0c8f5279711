"""What an output control is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from backend.job import Group, JobReply, LabelReply, RegionReply, TextAsk
from backend.labeling.labels import Labels
from backend.labeling.tags import Tag
from backend.labeling.visibility import Condition, visible
from model.values.mask import from_rle
from model.values.task import Task

CLASS = TextAsk(task=Task.RECOGNIZE, language="en")
"""The model's own word for a region: asked always, since it is kept where no label of the project fits."""


@dataclass(frozen=True)
class ShapingOptions:
    """The settings that shape answers.

    Attributes:
        label_threshold: probability from which the model's choice of a label is set, 0..1.
        polygon_tolerance: how far a polygon may run beside the mask's edge, pixels.
        video_tolerance: how far a box may lie beside the tracked one between keyframes, per cent of the picture.
    """

    label_threshold: float = 0.4
    polygon_tolerance: float = 1.0
    video_tolerance: float = 0.5


LEARNED = "label: learned from what people labelled in this project"
"""For people: the label is the label memory's more than the model's."""


def cut_note(key: str) -> str:
    """For people: that a text of this `TextAsk.key` was cut."""
    return f"{key.partition('.')[0]}: cut off at its limit of tokens"


@dataclass(frozen=True)
class RegionContext:
    """Everything a control may use to shape its item of one region.

    Attributes:
        id: the id that all items of the region share.
        reply: the job's reply, for the picture's size.
        group: the questions that were asked, for the order of the label sets.
        region: the answer about this region.
        chosen: the labels that the annotator chose at the prompt, by their values.
        options: the settings.
    """

    id: str
    reply: JobReply
    group: Group
    region: RegionReply
    chosen: tuple[str, ...] = ()
    options: ShapingOptions = field(default_factory=ShapingOptions)

    @cached_property
    def mask(self) -> np.ndarray:
        """Boolean (H, W)."""
        return from_rle(self.region.mask)

    @property
    def class_text(self) -> str:
        """The model's own word for the region; empty where it was not asked."""
        text = self.region.texts.get(CLASS.key)
        return text.string if text else ""

    @property
    def meta(self) -> dict[str, Any]:
        """What the annotator reads beside the region's geometry.

        The free answer is kept there also when no label of the project fits it, of which texts the end is missing, and
        where the label comes from if not from the model.
        """
        cut = [cut_note(task) for task, text in self.region.texts.items() if not text.finished]
        learned = any(one.from_memory and one.probability >= self.options.label_threshold for one in self.region.labels)
        words = [*([self.class_text] if self.class_text else []), *cut, *([LEARNED] if learned else [])]
        return {"meta": {"text": words}} if words else {}

    def choose(self, labels: Labels) -> tuple[LabelReply, ...]:
        """The labels for a control; more than one only where the annotator chose more.

        The annotator's own choice at the prompt wins, unless the config leaves it to the model; then the model's, if
        its probability reaches the threshold. Empty where neither gives one: never a label that the config lacks.
        """
        if fixed := labels.fixed(self.chosen):
            return tuple(LabelReply(label=label, probability=1.0) for label in fixed)
        wanted = labels.label_set
        for asked, chosen in zip(self.group.label_sets, self.region.labels, strict=True):
            if asked == wanted and chosen.probability >= self.options.label_threshold and chosen.label in labels:
                return (chosen,)
        # the annotator did name one that leaves the choice to the model, and the model has none
        return tuple(LabelReply(label=label, probability=0.0) for label in labels.matching(self.chosen))


@dataclass(frozen=True)
class Control(ABC):
    """One control of a labelling config that receives a part of the answer.

    Attributes:
        name: the tag's name (`from_name` in results).
        to_name: the name of its <Image>.
        labels: the closed set that it takes its label or choice from; empty where it takes none.
        per_region: it speaks about one region, not about the whole picture.
        conditions: under which Label Studio shows it.
    """

    name: str
    to_name: str
    labels: Labels = field(default_factory=Labels)
    per_region: bool = True
    conditions: tuple[Condition, ...] = ()

    is_geometry = False

    @classmethod
    @abstractmethod
    def matches(cls, tag: Tag) -> bool:
        """Whether this class handles the tag."""

    @classmethod
    def create(cls, tag: Tag) -> Control:
        """The control for a tag that matches."""
        return cls(tag.name, tag.to_name, Labels.of(tag), tag.per_region, tag.conditions)

    def texts(self) -> tuple[TextAsk, ...]:
        """The texts it needs of each region."""
        return ()

    @abstractmethod
    def item(self, context: RegionContext) -> dict[str, Any] | None:
        """Its item of the region in Label Studio's result format; None where it has nothing to say."""

    def shell(self, context: RegionContext, kind: str, value: dict[str, Any], score: float) -> dict[str, Any]:
        """The fields that all items share; score in 0..1."""
        item = {
            "id": context.id,
            "from_name": self.name,
            "to_name": self.to_name,
            "type": kind,
            "value": value,
            "score": round(score, 4),
            "origin": "prediction",
        }
        if self.per_region:
            size = {"original_width": context.reply.width, "original_height": context.reply.height}
            item |= size | {"image_rotation": 0}
        return item


def shown(
    controls: Sequence[Control], items: Sequence[Mapping[str, Any]], context: RegionContext | None = None
) -> list[Control]:
    """The controls that Label Studio shows for a region with these items.

    With a context the items are also what the controls themselves add: a choice may bring another control to light.
    """
    found: list[Control] = []
    there = list(items)
    count = -1
    while count != len(found):
        count = len(found)
        for control in controls:
            if control not in found and visible(control.conditions, there):
                found.append(control)
                item = control.item(context) if context is not None else None
                there += [item] if item is not None else []
    # what a later choice hid again
    found = [control for control in found if visible(control.conditions, there)]
    return [control for control in controls if control in found]


@dataclass(frozen=True)
class Geometry(Control):
    """A control that receives the mask, in its own form.

    Attributes:
        labelled: it has labels of its own (BrushLabels), also where a task gives it none.
    """

    labelled: bool = False

    is_geometry = True

    plain: ClassVar[str] = ""
    """Tag name without labels, e.g. Brush; its labels come from a <Labels> tag beside it."""

    @classmethod
    def matches(cls, tag: Tag) -> bool:
        return tag.kind in (cls.plain, f"{cls.plain}Labels")

    @classmethod
    def create(cls, tag: Tag) -> Control:
        labelled = tag.kind.endswith("Labels")
        labels = Labels.of(tag) if labelled else Labels()
        return cls(tag.name, tag.to_name, labels, conditions=tag.conditions, labelled=labelled)

    def texts(self) -> tuple[TextAsk, ...]:
        return (CLASS,)

    @abstractmethod
    def value(self, context: RegionContext) -> dict[str, Any] | None:
        """The mask in this control's form, without a label; None where nothing of it can be shown."""

    def item(self, context: RegionContext) -> dict[str, Any] | None:
        # an empty mask is no region: Label Studio would list one that nobody can see
        value = self.value(context) if context.region.area else None
        if value is None:
            return None
        kind = self.plain.lower()
        if self.labelled:
            kind = f"{kind}labels"
            value[kind] = [chosen.label for chosen in context.choose(self.labels)] if self.labels else []
        item = self.shell(context, kind, value, context.region.iou)
        return item | context.meta
