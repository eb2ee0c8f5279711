"""What the annotations of a task teach: examples of labels, what else there is in the picture, and disagreements."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from backend.errors import PromptError
from backend.job import Group, PointPrompt, RegionPrompt
from backend.label_studio.access import cloud_path
from backend.label_studio.protocol import LabelStudioTask
from backend.labeling.roles import ImageRoles, Roles
from backend.learning.memory import Entry
from backend.learning.reviewed import ReviewedRegion, reviewed_regions
from backend.tasks.plan import PicturePlan
from backend.tasks.wanted import WantedRegion

_TRUTH_WEIGHT = 2.0
_ELSEWHERE = 2
"""Places of a picture beside its regions that are looked at too."""
_TRIES = 40
_APART = 3.0  # per cent of the picture
_SAME = 0.5
_COMPARED_PIXELS = 20_000_000

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Lesson:
    """One example: the id of its region, what is known of it, and where it is."""

    id: str
    entry: Entry
    prompt: RegionPrompt
    image: ImageRoles


@dataclass(frozen=True)
class Lessons:
    """What a task teaches.

    Attributes:
        examples: one for each region that teaches.
        disputes: {"region", "labels": {who: label}} of regions that annotators disagree about, which do not teach.
    """

    examples: tuple[Lesson, ...] = ()
    disputes: tuple[dict[str, Any], ...] = ()

    def plans(self, task: LabelStudioTask, most: int, known: Iterable[str] = ()) -> list[PicturePlan]:
        """The jobs that look at them, of at most so many regions each; those that are known already are left out."""
        there = set(known)
        plans = []
        images = {(one.image.name, one.image.page): one.image for one in self.examples}
        for key, image in images.items():
            address = image.picture(task.data)
            mine = [one for one in self.examples if (one.image.name, one.image.page) == key and one.id not in there]
            if address is None:
                continue
            wanted = [WantedRegion(one.prompt, id=one.id) for one in mine]
            for first in range(0, len(wanted), most):
                part = tuple(wanted[first : first + most])
                plans.append(PicturePlan(image, cloud_path(address.strip(), task.id), part, Group(features=True)))
        return plans


def lessons_of(task: LabelStudioTask, roles: Roles, undecided: Iterable[str], most_pixels: int) -> Lessons:
    """What people's annotations of a task teach about the labels of its config.

    Args:
        task: with its annotations; skipped ones, and those that nobody has looked at, teach nothing.
        roles: of the config.
        undecided: ids of prompts whose suggestions nobody has decided on; they are no regions.
        most_pixels: of a picture.
    """
    roles = roles.of(task.data)
    assert task.id is not None
    passed = set(undecided)
    found = [one for one in reviewed_regions(task.annotations, task.id) if not one.cancelled and one.id not in passed]
    mine = []
    for region in found:
        image = roles.images.get(region.image)
        if image is None or region.of_video:
            continue
        image = image.on(region.page)
        try:
            prompt = region.prompt(most_pixels)
        except PromptError as error:
            log.info("region %s teaches nothing: %s", ascii(region.id), error)
            continue
        mine.append((region, image, prompt, _labels(region, image)))
    kept, disputes = _agreed(mine)
    at = time.time()
    examples = []
    for region, image, prompt, labels, works in kept:
        if labels:
            weight = _TRUTH_WEIGHT if region.ground_truth else 1.0
            shape = _digest(task, image, prompt)
            entry = Entry(task=task.id, annotations=works, labels=labels, weight=weight, shape=shape, at=at)
            examples.append(Lesson(region.id, entry, prompt, image))
    elsewhere: list[Lesson] = []
    for image in {(one.image.name, one.image.page): one.image for one in examples}.values():
        regions = [prompt for _, other, prompt, _ in mine if (other.name, other.page) == (image.name, image.page)]
        elsewhere += _elsewhere(task, image, regions, at)
    return Lessons((*examples, *elsewhere), tuple(disputes))


_Mine = tuple[ReviewedRegion, ImageRoles, RegionPrompt, dict[str, tuple[str, ...]]]
_Kept = tuple[ReviewedRegion, ImageRoles, RegionPrompt, dict[str, tuple[str, ...]], tuple[int, ...]]


def _labels(region: ReviewedRegion, image: ImageRoles) -> dict[str, tuple[str, ...]]:
    """Of each control that receives labels, the region's own or those of the same value; none that leave the choice to
    the model.
    """
    values = [
        value
        for name, mine in region.labels.items()
        if name in image.labels
        for value in image.labels[name].values_of(mine)
        if not set(image.labels[name].matching([value])) & image.labels[name].free
    ]
    found = {}
    for control in (*image.geometry, *image.words):
        own = [one for one in region.labels.get(control.name, ()) if one in control.labels]
        matching = own or control.labels.matching(values)
        if teaches := tuple(label for label in matching if label not in control.labels.free):
            found[control.name] = teaches
    return found


def _agreed(mine: Sequence[_Mine]) -> tuple[list[_Kept], list[dict[str, Any]]]:
    """One of each region; what annotators disagree about is not taught but told, unless one of it is marked as true."""
    groups: list[list[_Mine]] = []
    several = len({one[0].annotation for one in mine}) > 1
    for one in mine:
        same = next((group for group in groups if _is_same(group[0], one, several)), None)
        groups.append([one]) if same is None else same.append(one)
    kept: list[_Kept] = []
    disputes = []
    for group in groups:
        annotations = tuple(dict.fromkeys(one[0].annotation for one in group if one[0].annotation is not None))
        true = [one for one in group if one[0].ground_truth]
        # of one person the newest
        people = {one[0].who if one[0].who is not None else -(number + 1): one for number, one in enumerate(
            sorted(true or group, key=lambda one: one[0].at))}  # fmt: skip
        said = list(people.values())
        chosen = said[-1]
        if any(_contradict(one[3], chosen[3]) for one in said):
            labels = {f"user {who}" if who > 0 else "somebody": _shown(one[3]) for who, one in people.items()}
            disputes.append({"region": chosen[0].id, "labels": labels})
            continue
        kept.append((*chosen, annotations))
    return kept, disputes


def _is_same(one: _Mine, other: _Mine, several: bool) -> bool:
    if one[0].id == other[0].id:
        return True
    if (
        not several
        or one[0].annotation == other[0].annotation
        or (one[0].image, one[0].page)
        != (
            other[0].image,
            other[0].page,
        )
    ):
        return False
    return _overlap(one[2], other[2]) >= _SAME


def _contradict(one: dict[str, tuple[str, ...]], other: dict[str, tuple[str, ...]]) -> bool:
    return any(set(one[name]) != set(other[name]) for name in one.keys() & other.keys())


def _shown(labels: dict[str, tuple[str, ...]]) -> str:
    return ", ".join(dict.fromkeys(label for mine in labels.values() for label in mine))


def _overlap(one: RegionPrompt, other: RegionPrompt) -> float:
    """IoU of two masks, or of two boxes; 0 where they cannot be compared."""
    from model.values.mask import from_rle, mask_iou, rle_area

    if one.box is not None and other.box is not None:
        x = min(one.box[2], other.box[2]) - max(one.box[0], other.box[0])
        y = min(one.box[3], other.box[3]) - max(one.box[1], other.box[1])
        areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (one.box, other.box)]
        inner = max(0.0, x) * max(0.0, y)
        return inner / (sum(areas) - inner)
    if one.mask is None or other.mask is None or one.mask["size"] != other.mask["size"]:
        return 0.0
    height, width = one.mask["size"]
    areas = sorted([rle_area(one.mask), rle_area(other.mask)])
    if areas[0] < _SAME * areas[1]:
        return 0.0
    return mask_iou(from_rle(one.mask), from_rle(other.mask)) if height * width <= _COMPARED_PIXELS else 0.0


def _elsewhere(task: LabelStudioTask, image: ImageRoles, regions: Sequence[RegionPrompt], at: float) -> list[Lesson]:
    """A few places of the picture that lie apart from its regions, always the same ones."""
    if any(prompt.drawing is not None for prompt in regions):
        return []  # nothing says which places those cover
    rng = np.random.default_rng([task.id or 0, image.page or 0])
    places = [(float(x), float(y)) for x, y in rng.uniform(5, 95, (_TRIES, 2))]
    boxes = [box for prompt in regions if (box := _box(prompt)) is not None]
    free = [(x, y) for x, y in places if not any(_inside(box, x, y) for box in boxes)][:_ELSEWHERE]
    lessons = []
    for number, (x, y) in enumerate(free):
        prompt = RegionPrompt(points=(PointPrompt(x=x, y=y),))
        entry = Entry(task=task.id or 0, shape=_digest(task, image, prompt), at=at)
        lessons.append(Lesson(f"elsewhere:{task.id}:{image.name}:{image.page or 0}:{number}", entry, prompt, image))
    return lessons


def _box(prompt: RegionPrompt) -> tuple[float, float, float, float] | None:
    """Around a region, in percentages of the picture."""
    from model.values.mask import from_rle, mask_box

    if prompt.mask is None:
        return prompt.box
    height, width = prompt.mask["size"]
    box = mask_box(from_rle(prompt.mask))
    return (
        None
        if box is None
        else (100 * box[0] / width, 100 * box[1] / height, 100 * box[2] / width, 100 * box[3] / height)
    )


def _inside(box: tuple[float, float, float, float], x: float, y: float) -> bool:
    # a click in a ring's hole or just beside a thing is often taken for the thing
    return box[0] - _APART <= x <= box[2] + _APART and box[1] - _APART <= y <= box[3] + _APART


def _digest(task: LabelStudioTask, image: ImageRoles, prompt: RegionPrompt) -> str:
    text = json.dumps([image.picture(task.data), prompt.model_dump(mode="json")], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
