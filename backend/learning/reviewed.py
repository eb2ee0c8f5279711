"""What people made of a task's regions: shapes, labels and texts, read out of its annotations.

Annotations that *Create Annotations From Predictions* made do not count until somebody edits them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from backend.job import PATH, RegionPrompt
from backend.label_studio.geometry import MASKS, kind_of
from backend.label_studio.protocol import Annotation, ResultItem, items_of
from backend.label_studio.regions import by_region, regions_of, shape_of

_TEXT = "textarea"
_OF_VIDEOS = ("videorectangle", "timelinelabels")


@dataclass(frozen=True)
class ReviewedRegion:
    """One region as a person left it.

    Attributes:
        id: of the region in Label Studio; copies of a prediction's region in two annotations have the same.
        task, annotation: their numbers; None where the annotation does not say.
        image: name of the <Image> or <Video>.
        page: of several pictures in one <Image> which, from 0.
        shape: the item with its geometry, of a video the one with its sequence or ranges.
        labels: by the name of their control, as results carry them; of nested ones the path, joined by `PATH`.
        texts: by the name of their control; several of one control are lines.
        cancelled: the task was skipped.
        ground_truth: the annotation is marked as true.
        who: number of the user who changed it last, or made it; None where it does not say.
        at: when it was saved last, as Label Studio writes it (ISO 8601); empty where it does not say.
    """

    id: str
    task: int | None
    annotation: int | None
    image: str
    page: int
    shape: ResultItem = field(repr=False)
    labels: dict[str, tuple[str, ...]]
    texts: dict[str, str]
    cancelled: bool = False
    ground_truth: bool = False
    who: int | None = None
    at: str = ""

    @property
    def of_video(self) -> bool:
        """Whether it is a tracked region or an event of a video; such a one has no `prompt`."""
        return self.shape.type in _OF_VIDEOS

    @property
    def is_mask(self) -> bool:
        """Whether its shape is a mask or an outline; else a box or an ellipse."""
        return kind_of(self.shape.type) in MASKS

    def prompt(self, most_pixels: int) -> RegionPrompt:
        """It as what a worker is asked about: its mask, its box, or its drawing where nothing says the picture's size.

        Raises:
            PromptError: its shape cannot be read, or its picture has more than so many pixels.
        """
        return RegionPrompt().model_copy(update=shape_of(self.shape, most_pixels))


def reviewed_regions(annotations: Iterable[Annotation], task: int | None = None) -> list[ReviewedRegion]:
    """The regions of a task's annotations, in their order; keypoints are prompts and left out.

    Args:
        annotations: of one task; also skipped ones, whose regions say so.
        task: its number, where the annotations do not say.
    """
    found = []
    for work in annotations:
        if work.unseen:
            continue
        regions = [items for items in regions_of(work.result) if kind_of(items[0].type) != "keypoint"]
        found += [_region(work, items, task) for items in [*regions, *video_regions(work.result)]]
    return found


def video_regions(result: Sequence[dict[str, Any]]) -> list[list[ResultItem]]:
    """Tracked regions and events, each as its items with the sequence or the ranges first."""
    regions = [sorted(items, key=lambda item: item.type not in _OF_VIDEOS) for items in by_region(items_of(result))]
    return [items for items in regions if items[0].type in _OF_VIDEOS]


def without(labels: dict[str, tuple[str, ...]], free: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Labels by control without those that say nothing (`pallas="auto"`)."""
    left = {name: tuple(label for label in mine if label not in free) for name, mine in labels.items()}
    return {name: mine for name, mine in left.items() if mine}


def _region(work: Annotation, items: Sequence[ResultItem], task: int | None) -> ReviewedRegion:
    shape = items[0]
    labels: dict[str, tuple[str, ...]] = {}
    texts: dict[str, str] = {}
    for item in items:
        if item.type == _TEXT:
            said = (item.value.model_extra or {}).get("text")
            lines = said if isinstance(said, list) else [said] if isinstance(said, str) else []
            if lines:
                texts[item.from_name] = "\n".join(map(str, lines))
        elif mine := _labels(item):
            labels[item.from_name] = mine
    return ReviewedRegion(
        id=str(shape.id),
        task=work.task if work.task is not None else task,
        annotation=work.id,
        image=shape.to_name,
        page=shape.item_index,
        shape=shape,
        labels=labels,
        texts=texts,
        cancelled=work.was_cancelled,
        ground_truth=work.ground_truth,
        who=next((who for who in map(_number, (work.updated_by, work.completed_by)) if who is not None), None),
        at=work.updated_at or work.created_at,
    )


def _labels(item: ResultItem) -> tuple[str, ...]:
    """As a `Candidate` of the control names them."""
    more = item.value.model_extra or {}
    for key in (item.type, "labels"):
        found = more.get(key)
        if isinstance(found, list) and found:
            return tuple(PATH.join(map(str, one)) if isinstance(one, list) else str(one) for one in found)
    return ()


def _number(user: Any) -> int | None:
    # some of Label Studio's answers have the user in place of the number
    number = user.get("id") if isinstance(user, dict) else user
    return number if isinstance(number, int) else None
