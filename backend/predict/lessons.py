"""What the annotations of a task teach: examples of labels, what else there is in the picture, and disagreements."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from backend.errors import PromptError
from backend.job import ClipAsk, ClipMark, Group, JobReply, PointPrompt, RegionPrompt
from backend.label_studio.access import cloud_path
from backend.label_studio.protocol import LabelStudioTask
from backend.labeling.labels import Labels
from backend.labeling.roles import ImageRoles, Roles
from backend.labeling.video_roles import VideoRoles
from backend.learning.memory import Entry
from backend.learning.reviewed import ReviewedRegion, reviewed_regions
from backend.predict.elsewhere import places_beside
from backend.tasks.plan import PicturePlan, Plan
from backend.tasks.video_drawn import RECTANGLE, clip_object
from backend.tasks.video_plan import ClipPlan
from backend.tasks.wanted import WantedRegion

_TRUTH_WEIGHT = 2.0
_SAME = 0.5
_COMPARED_PIXELS = 20_000_000

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Lesson:
    """One example: the id of its region, what is known of it, and where it is; of a video on which frame."""

    id: str
    entry: Entry
    prompt: RegionPrompt
    image: ImageRoles | VideoRoles
    mark: ClipMark | None = None


@dataclass(frozen=True)
class Lessons:
    """What a task teaches.

    Attributes:
        examples: one for each region that teaches.
        disputes: {"region", "labels": {who: label}} of regions that annotators disagree about, which do not teach.
    """

    examples: tuple[Lesson, ...] = ()
    disputes: tuple[dict[str, Any], ...] = ()

    def plans(self, task: LabelStudioTask, most: int, known: Iterable[str] = ()) -> list[Plan]:
        """The jobs that look at them, of at most so many regions each; those that are known already are left out."""
        there = set(known)
        plans: list[Plan] = []
        places: dict[tuple[str, int | None], list[Lesson]] = {}
        for one in self.examples:
            if one.id not in there:
                places.setdefault(_place(one.image), []).append(one)
        for mine in places.values():
            image = mine[0].image
            if isinstance(image, VideoRoles):
                plans += _clip_plans(task, image, mine, most)
                continue
            address = image.picture(task.data)
            if address is None:
                continue
            wanted = [WantedRegion(one.prompt, id=one.id) for one in mine]
            for first in range(0, len(wanted), most):
                part = tuple(wanted[first : first + most])
                plans.append(PicturePlan(image, cloud_path(address.strip(), task.id), part, Group(features=True)))
        return plans


def looks(plan: Plan, reply: JobReply) -> Iterator[tuple[str, str]]:
    """Of each region that a plan looked at its id, and its features as the reply carries them."""
    if isinstance(plan, ClipPlan):
        if reply.clip is not None:
            yield from zip(plan.looked, reply.clip.features, strict=False)
    elif isinstance(plan, PicturePlan):
        yield from ((wanted.id, one.features) for wanted, one in zip(plan.wanted, reply.groups[0], strict=True))


def _clip_plans(task: LabelStudioTask, video: VideoRoles, mine: Sequence[Lesson], most: int) -> Iterator[ClipPlan]:
    address, rate = video.address(task.data), video.rate(task.data)
    if address is None:
        return
    for first in range(0, len(mine), most):
        part = [(one.id, one.mark) for one in mine[first : first + most] if one.mark is not None]
        ask = ClipAsk(looks=tuple(mark for _, mark in part), frame_rate=rate)
        where = cloud_path(address.strip(), task.id)
        yield ClipPlan(video, where, rate, ask, looked=tuple(name for name, _ in part))


def _place(image: ImageRoles | VideoRoles) -> tuple[str, int | None]:
    """The name of a picture's or a video's tag, and which of its pages it is."""
    return image.name, image.page if isinstance(image, ImageRoles) else None


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
    mine: list[_Mine] = []
    for region in found:
        try:
            one = _tracked(task, region, roles) if region.of_video else _drawn(region, roles, most_pixels)
        except PromptError as error:
            log.info("region %s teaches nothing: %s", ascii(region.id), error)
            continue
        if one is not None:
            mine.append(one)
    kept, disputes = _agreed(mine)
    at = time.time()
    examples = []
    for (region, image, prompt, labels, mark), works in kept:
        if labels:
            weight = _TRUTH_WEIGHT if region.ground_truth else 1.0
            shape = _digest(task, image, prompt, mark)
            entry = Entry(task=task.id, annotations=works, labels=labels, weight=weight, shape=shape, at=at)
            examples.append(Lesson(region.id, entry, prompt, image, mark))
    elsewhere: list[Lesson] = []
    for image in {_place(one.image): one.image for one in examples}.values():
        if isinstance(image, ImageRoles):
            regions = [prompt for _, other, prompt, _, _ in mine if _place(other) == _place(image)]
            elsewhere += _elsewhere(task, image, regions, at)
    return Lessons((*examples, *elsewhere), tuple(disputes))


_Mine = tuple[ReviewedRegion, ImageRoles | VideoRoles, RegionPrompt, dict[str, tuple[str, ...]], ClipMark | None]


def _drawn(region: ReviewedRegion, roles: Roles, most_pixels: int) -> _Mine | None:
    """A region of a picture; None where the config has no such picture any more. Raises PromptError."""
    image = roles.images.get(region.image)
    if image is None:
        return None
    image = image.on(region.page)
    sets = [(control.name, control.labels) for control in (*image.geometry, *image.words)]
    return region, image, region.prompt(most_pixels), _labels(region, image.labels, sets), None


def _tracked(task: LabelStudioTask, region: ReviewedRegion, roles: Roles) -> _Mine | None:
    """A tracked thing of a video, as it is on the first frame that it is shown on; None of an event.

    Raises PromptError.
    """
    video = roles.videos.get(region.image)
    if video is None or region.shape.type != RECTANGLE:
        return None
    rate = video.rate(task.data)
    mark = clip_object((region.shape.value.model_extra or {}).get("sequence"), (), rate).marks[0]
    sets = [(video.rectangle or "", video.labels), *((control.name, control.labels) for control in video.words)]
    # a <VideoRectangle> has its labels from the <Labels> beside it
    known = {name: labels or video.labels for name, labels in video.known.items()}
    # boxes of two annotators are compared where they are on the same frame
    there = replace(region, page=round(mark.time_s * rate))
    return there, video, RegionPrompt(box=mark.box, drawing=mark.drawing), _labels(region, known, sets), mark


def _labels(
    region: ReviewedRegion, known: Mapping[str, Labels], sets: Sequence[tuple[str, Labels]]
) -> dict[str, tuple[str, ...]]:
    """Of each control that receives labels, the region's own or those of the same value; none that leave the choice to
    the model.
    """
    values = [
        value
        for name, mine in region.labels.items()
        if name in known
        for value in known[name].values_of(mine)
        if not set(known[name].matching([value])) & known[name].free
    ]
    found = {}
    for name, labels in sets:
        own = [one for one in region.labels.get(name, ()) if one in labels]
        matching = own or labels.matching(values)
        if teaches := tuple(label for label in matching if label not in labels.free):
            found[name] = teaches
    return found


def _agreed(mine: Sequence[_Mine]) -> tuple[list[tuple[_Mine, tuple[int, ...]]], list[dict[str, Any]]]:
    """One of each region, with the annotations that have it.

    What annotators disagree about is not taught but told, unless one of it is marked as true.
    """
    groups: list[list[_Mine]] = []
    several = len({one[0].annotation for one in mine}) > 1
    for one in mine:
        same = next((group for group in groups if _is_same(group[0], one, several)), None)
        groups.append([one]) if same is None else same.append(one)
    kept = []
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
        kept.append((chosen, annotations))
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
    lessons = []
    for number, (x, y) in enumerate(places_beside(regions, [task.id or 0, image.page or 0])):
        prompt = RegionPrompt(points=(PointPrompt(x=x, y=y),))
        entry = Entry(task=task.id or 0, shape=_digest(task, image, prompt), at=at)
        lessons.append(Lesson(f"elsewhere:{task.id}:{image.name}:{image.page or 0}:{number}", entry, prompt, image))
    return lessons


def _digest(
    task: LabelStudioTask, image: ImageRoles | VideoRoles, prompt: RegionPrompt, mark: ClipMark | None = None
) -> str:
    address = image.picture(task.data) if isinstance(image, ImageRoles) else image.address(task.data)
    time_s = () if mark is None else (mark.time_s,)
    text = json.dumps([address, prompt.model_dump(mode="json"), *time_s], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
