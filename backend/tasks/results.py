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

    Its score is the least certain region's mask IoU as SAM 2 estimates it, 0..1.
    """

    def __init__(self, options: ShapingOptions) -> None:
        self.options = options
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
            self._items += items
            self._scores.append(region.iou)
            mask = None if asked.own else region.mask
            self.remembered.append(Remembered.of(items, mask, asked.prompt))
            self.words.append(Words.of(context, (image.geometry_for(asked.prompt.labels), *image.words)))

    def whole(self, reply: JobReply, image: ImageRoles, group: Group, found: RegionReply) -> None:
        """The items about the whole picture, each with an id of its own."""
        context = RegionContext("", reply, group, found, (), self.options)
        for control in shown(image.whole, (), context):
            item = control.item(replace(context, id=new_id()))
            if item is not None:
                self._items.append(item | (_place(image) if control.name in image.per_item else {}))
                self._scores.append(float(item["score"]))

    def add(self, items: Sequence[dict[str, Any]], score: float) -> None:
        """The items of one region, geometry first, that were made elsewhere; score in 0..1."""
        self._items += items
        self._scores.append(score)
        self.remembered.append(Remembered.of(items, None))

    def prediction(self, model_version: str) -> Prediction:
        score = round(min(self._scores), 4) if self._scores else None
        return Prediction(result=self._items, score=score, model_version=model_version)


def _place(image: ImageRoles) -> dict[str, int]:
    """Of several pictures in one <Image>, which one an item is about."""
    return {} if image.page is None else {"item_index": image.page}
