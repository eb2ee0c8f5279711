"""What is asked about one video of a task, and the prediction that is made of the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from backend.job import ClipAsk, ClipReply, EventReply, Group, JobReply, ObjectReply, RegionReply
from backend.label_studio.video_clock import Clock
from backend.labeling.controls import Control, RegionContext, shown
from backend.labeling.controls.base import cut_note
from backend.labeling.controls.textarea import TextArea
from backend.labeling.video_roles import VideoRoles
from backend.tasks.plan import Plan
from backend.tasks.results import Shaper
from backend.tasks.video_corrected import Correction
from backend.tasks.video_drawn import RECTANGLE
from backend.tasks.video_keyframes import keyframes
from backend.tasks.wanted import new_id
from model.values.task import Task

_OF_PICTURES = ("original_width", "original_height", "image_rotation")


@dataclass(frozen=True)
class ClipPlan(Plan):
    """What is asked about a video.

    Attributes:
        video: the roles.
        picture: the video's address.
        rate: Label Studio's frames per second.
        ask: the questions.
        corrected: the objects are tracked regions that a person has corrected, instead of new ones.
        saved: what that person saved: all of it is answered again, but for what is tracked anew.
        looked: ids of the regions that are only looked at, as the ask has them.
    """

    video: VideoRoles
    picture: str
    rate: float
    ask: ClipAsk
    corrected: tuple[Correction, ...] = ()
    saved: tuple[dict[str, Any], ...] = ()
    looked: tuple[str, ...] = ()

    def address(self, data: Mapping[str, Any]) -> str:
        return self.video.address(data) or ""

    def has(self, item: Mapping[str, Any]) -> bool:
        return item.get("to_name") == self.video.name

    def moved(self, picture: str) -> ClipPlan:
        return replace(self, picture=picture)

    def groups(self) -> tuple[object, ...]:
        return (*self.ask.objects, *self.ask.looks, *self.ask.whole, *self.ask.whole_sets)

    def asked(self) -> dict[str, Any]:
        return {"clip": self.ask, "alone": True}

    def shape(self, reply: JobReply, shaper: Shaper) -> None:
        """Add a reply's sequences, words and events to the answer, as far as it has them."""
        clip = reply.clip
        if clip is None:
            return
        clock = Clock(self.rate, clip.duration_s)
        if self.corrected:
            self._again(clip, clock, shaper)
            return
        for asked, found in zip(self.ask.objects, clip.objects, strict=False):
            self._object(reply, found, asked.labels, clock, shaper)
            self._events(reply, found, clock, shaper)
        self._whole(reply, clip, shaper)

    def _again(self, clip: ClipReply, clock: Clock, shaper: Shaper) -> None:
        """What was saved, region by region under new ids, with the corrected ones tracked on."""
        found = {one.id: (one, seen) for one, seen in zip(self.corrected, clip.objects, strict=True)}
        regions: dict[str, list[dict[str, Any]]] = {}
        for item in self.saved:
            regions.setdefault(str(item["id"]), []).append(item)
        for name, items in regions.items():
            again = [item | {"id": new, "origin": "prediction"} for new in [new_id()] for item in items]
            again.sort(key=lambda item: item["type"] not in (RECTANGLE, "timelinelabels"))
            score = float(items[0].get("score") or 0.0)
            if name in found:
                correction, seen = found[name]
                sequence = correction.tracked_on(seen.sightings, clock, shaper.options.video_tolerance)
                score = seen.iou
                again = [_with_sequence(item, sequence) for item in again]
            shaper.add(again, score)

    def _object(
        self, reply: JobReply, found: ObjectReply, labels: tuple[str, ...], clock: Clock, shaper: Shaper
    ) -> None:
        sequence = keyframes(found.sightings, clock, shaper.options.video_tolerance)
        if not sequence or self.video.rectangle is None:
            return
        context = self._context(reply, found, self.ask.label_sets, shaper, labels)
        chosen = context.choose(self.video.labels)
        value = {
            "framesCount": clock.count,
            "duration": clock.duration_s,
            "sequence": sequence,
            "labels": [one.label for one in chosen],
        }
        item = self._item(context.id, self.video.rectangle, RECTANGLE, value, found.iou)
        item |= context.meta
        shaper.add([item, *_items(self.video.words, context, [item])], found.iou)

    def _events(self, reply: JobReply, found: ObjectReply, clock: Clock, shaper: Shaper) -> None:
        timeline = self.video.timeline
        if timeline is None:
            return
        captions = [c for c in self.video.words if isinstance(c, TextArea) and c.ask.task is Task.BRIEF]
        for event in _merged(found.events):
            start, end = clock.frame(event.start_s), clock.frame_before(event.end_s)
            value = {
                "ranges": [{"start": start, "end": max(start, end)}],
                "timelinelabels": [event.label.label] if event.label is not None else [],
            }
            score = event.label.probability if event.label is not None else event.caption.score
            name = new_id()
            items = [self._item(name, timeline.name, "timelinelabels", value, score)]
            if event.caption.string:
                text = {"text": [event.caption.string]}
                words = [self._item(name, c.name, "textarea", text, event.caption.score) for c in captions]
                cut = {} if event.caption.finished else {"meta": {"text": [cut_note("caption")]}}
                items += [word | cut for word in words]
            shaper.add(items, score)

    def _whole(self, reply: JobReply, clip: ClipReply, shaper: Shaper) -> None:
        found = ObjectReply(sightings=(), iou=1.0, texts=clip.texts, labels=clip.labels)
        for control in self.video.whole:
            for item in _items([control], self._context(reply, found, self.ask.whole_sets, shaper), ()):
                shaper.add([item], float(item["score"]))

    def _context(
        self,
        reply: JobReply,
        found: ObjectReply,
        sets: tuple[Any, ...],
        shaper: Shaper,
        labels: tuple[str, ...] = (),
    ) -> RegionContext:
        """For the controls that know regions of pictures: a tracked object has its words, but no mask."""
        region = RegionReply(mask={}, area=1, iou=found.iou, object_score=1.0, texts=found.texts, labels=found.labels)
        # before tracking is over no label was chosen yet
        group = Group(label_sets=sets if len(sets) == len(found.labels) else ())
        return RegionContext(new_id(), reply, group, region, labels, shaper.options)

    def _item(self, name: str, control: str, kind: str, value: dict[str, Any], score: float) -> dict[str, Any]:
        return {
            **{"id": name, "from_name": control, "to_name": self.video.name, "type": kind, "value": value},
            **{"score": round(score, 4), "origin": "prediction"},
        }


def _with_sequence(item: dict[str, Any], sequence: list[dict[str, Any]]) -> dict[str, Any]:
    """An item of a region, whose texts have the sequence too, as Label Studio saves them."""
    value = item.get("value")
    if not isinstance(value, dict) or "sequence" not in value:
        return item
    return item | {"value": value | {"sequence": sequence}}


def _items(
    controls: Sequence[Control], context: RegionContext, there: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    visible = shown(controls, there, context)
    items = [item for control in visible if (item := control.item(context)) is not None]
    return [{name: value for name, value in item.items() if name not in _OF_PICTURES} for item in items]


def _merged(events: tuple[EventReply, ...]) -> list[EventReply]:
    """Neighbours that say the same are one event: a long one is told in clips of a limited length."""
    merged: list[EventReply] = []
    for event in events:
        if merged and event.caption.string and event.caption.string == merged[-1].caption.string:
            merged[-1] = merged[-1].model_copy(update={"end_s": event.end_s})
        else:
            merged.append(event)
    return merged
