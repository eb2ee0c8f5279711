"""From a job's reply to a prediction in Label Studio's result format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from backend.job import Group, JobReply, RegionReply
from backend.label_studio.protocol import Prediction
from backend.labeling.controls import Control, RegionContext, RegionLabels, ShapingOptions, shown
from backend.labeling.controls.base import CLASS
from backend.labeling.labels import Labels
from backend.labeling.roles import ImageRoles
from backend.learning.confidence import PLAIN, Confidence, Signs, signs_of
from backend.tasks.answers import Remembered
from backend.tasks.wanted import WantedRegion, new_id


@dataclass(frozen=True)
class Words:
    """What is said of one region, in short.

    Attributes:
        label: of the region's first control that has labels, several joined by commas; None without one.
        probability: of the label by the model, 0..1; None where the annotator chose it.
        word: the model's own.
        text: the region's first caption.
    """

    label: str | None
    probability: float | None
    word: str
    text: str

    @classmethod
    def of(cls, context: RegionContext, controls: Sequence[Control]) -> Words:
        """By the controls of the region, in the config's order."""
        labels = next((control.labels for control in controls if control.labels), Labels())
        found = context.choose(labels) if labels else ()
        asks = [ask.key for control in controls for ask in control.texts() if ask != CLASS]
        texts = (context.region.texts[key].string for key in asks if key in context.region.texts)
        return cls(
            label=", ".join(label.label for label in found) or None,
            probability=found[0].probability if found and not labels.fixed(context.chosen) else None,
            word=context.class_text,
            text=next(texts, ""),
        )


class Shaper:
    """Collects the items of one task's answer, and what is to be remembered of them.

    Its score is the confidence of the region that is least certain, 0..1.

    Args:
        options: how items are shaped.
        confidence: what says how sure an answer is.
    """

    def __init__(self, options: ShapingOptions, confidence: Confidence = PLAIN) -> None:
        self.options = options
        self._confidence = confidence
        self._items: list[dict[str, Any]] = []
        self._scores: list[float] = []
        self.remembered: list[Remembered] = []
        self.words: list[Words] = []

    def regions(
        self,
        reply: JobReply,
        image: ImageRoles,
        group: Group,
        wanted: Sequence[WantedRegion],
        found: Sequence[RegionReply],
    ) -> None:
        """For each region that is wanted the items of all controls under one id, geometry first.

        A region whose mask is empty (the model sees no object at the prompt) is left out: text without geometry is not
        shown.
        """
        for asked, region in zip(wanted, found, strict=True):
            context = RegionContext(asked.id, reply, group, region, asked.prompt.labels, self.options)
            if asked.own:
                size = {"original_width": reply.width, "original_height": reply.height, "image_rotation": 0}
                # what other tools made may not say how large its picture is
                own_size = [{} if item.get("original_width") else size for item in asked.own]
                items = [item | more | {"id": asked.id} for item, more in zip(asked.own, own_size, strict=True)]
            else:
                geometry = image.geometry_for(asked.prompt.labels)
                if group.propose and geometry.labels and not context.choose(geometry.labels):
                    continue  # nobody asked for this one: the config's labels say what is wanted
                item = geometry.item(context)
                items = [item, *(word | {"id": asked.id} for word in asked.words)] if item is not None else []
            if not items:
                continue
            there = {item["from_name"] for item in items}
            missing = [control for control in image.words if control.name not in there]
            words = [control.item(context) for control in shown(missing, items, context)]
            items = RegionLabels.with_geometry([*items, *(word for word in words if word is not None)])
            items = [item | _place(image) for item in items]
            controls = (image.geometry_for(asked.prompt.labels), *image.words)
            signs = _signs(context, controls, own=bool(asked.own))
            sure = round(self._confidence.of(signs), 4)
            if not asked.own:
                items[0]["score"] = sure
            self._items += items
            self._scores.append(sure)
            mask = None if asked.own else region.mask
            kept = Remembered.of(items, mask, asked.prompt)
            self.remembered.append(kept.model_copy(update={"signs": signs, "sure": sure}))
            self.words.append(Words.of(context, controls))

    def whole(self, reply: JobReply, image: ImageRoles, group: Group, found: RegionReply) -> None:
        """The items about the whole picture, each with an id of its own."""
        context = RegionContext("", reply, group, found, (), self.options)
        before = len(self._items)
        for control in shown(image.whole, (), context):
            item = control.item(replace(context, id=new_id()))
            if item is not None:
                self._items.append(item | (_place(image) if control.name in image.per_item else {}))
        if len(self._items) > before:
            self._scores.append(self._confidence.of(_signs(context, image.whole, own=True)))

    def add(self, items: Sequence[dict[str, Any]], score: float) -> None:
        """The items of one region, geometry first, that were made elsewhere; score in 0..1."""
        self._items += items
        self._scores.append(score)
        self.remembered.append(Remembered.of(items, None))

    def prediction(self, model_version: str) -> Prediction:
        score = round(min(self._scores), 4) if self._scores else None
        return Prediction(result=self._items, score=score, model_version=model_version)


def _signs(context: RegionContext, controls: Sequence[Control], own: bool) -> Signs:
    """What is known of how sure an answer is; of a shape that is `own` nothing is asked, nor of labels chosen."""
    asked = [control.labels.label_set for control in controls if control.labels.open_to(context.chosen)]
    pairs = zip(context.group.label_sets, context.region.labels, strict=True) if asked else ()
    labels = [reply for labels, reply in pairs if labels in asked]
    least = min(labels, key=lambda reply: reply.margin, default=None)
    memory = None
    if least is not None and least.memory is not None and least.probability:
        memory = least.memory / least.probability
    keys = {ask.key for control in controls for ask in control.texts()}
    texts = [text.score for key, text in context.region.texts.items() if key in keys]
    return signs_of(
        mask=None if own else context.region.iou,
        edge=None if own else context.region.stability,
        label=None if least is None else least.margin,
        memory=memory,
        text=sum(texts) / len(texts) if texts else None,
    )


def _place(image: ImageRoles) -> dict[str, int]:
    """Of several pictures in one <Image>, which one an item is about."""
    return {} if image.page is None else {"item_index": image.page}
