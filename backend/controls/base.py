"""What an output control is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from backend.job import JobReply, RegionReply
from model.mask import from_coco_rle
from model.task import Task


@dataclass(frozen=True)
class RegionContext:
    """Everything a control may use to shape its item of one region.

    Attributes:
        id: the id that all items of the region share.
        reply: the job's reply, for the picture's size.
        region: the region itself.
        label: the label that the annotator chose at the prompt, or None.
    """

    id: str
    reply: JobReply
    region: RegionReply
    label: str | None

    @cached_property
    def mask(self) -> np.ndarray:
        """Boolean (H, W)."""
        return from_coco_rle(self.region.mask)

    @property
    def class_text(self) -> str:
        """The model's own word for the region; empty where it was not asked."""
        text = self.region.texts.get(Task.RECOGNIZE)
        return text.string if text else ""


@dataclass(frozen=True)
class Control(ABC):
    """One control of a labelling config that receives a part of the answer.

    Attributes:
        name: the tag's name (`from_name` in results).
        to_name: the name of its <Image>.
    """

    name: str
    to_name: str

    is_geometry = False

    @classmethod
    @abstractmethod
    def matches(cls, tag: Any) -> bool:
        """Whether this class handles the tag (a label_studio_sdk ControlTag)."""

    @classmethod
    @abstractmethod
    def create(cls, tag: Any) -> Control:
        """The control for a tag that matches."""

    def has_label(self, label: str | None) -> bool:
        """Whether the label is one of this control's own."""
        return False

    @abstractmethod
    def tasks(self) -> tuple[Task, ...]:
        """The texts it needs of each region."""

    @abstractmethod
    def item(self, context: RegionContext) -> dict[str, Any] | None:
        """Its item of the region in Label Studio's result format; None where it has nothing to say."""

    def shell(self, context: RegionContext, kind: str, value: dict[str, Any], score: float) -> dict[str, Any]:
        """The fields that all items share; score in 0..1."""
        return {
            "id": context.id,
            "from_name": self.name,
            "to_name": self.to_name,
            "type": kind,
            "original_width": context.reply.width,
            "original_height": context.reply.height,
            "image_rotation": 0,
            "value": value,
            "score": round(score, 4),
            "origin": "prediction",
        }


def is_per_region(tag: Any) -> bool:
    return str(tag.attr.get("perRegion", "")).lower() == "true"
