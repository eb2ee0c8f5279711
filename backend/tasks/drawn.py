"""What somebody has drawn in a task already, and what of it lacks a mask, a class or a text."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

from backend.errors import PromptError
from backend.job import PointPrompt, RegionPrompt
from backend.label_studio.geometry import BOXES, MASKS, kind_of, may_cover, pixel_at
from backend.label_studio.protocol import Annotation, LabelStudioTask, ResultItem, items_of
from backend.label_studio.regions import regions_of, rle_of, shape_of, words_of
from backend.labeling.controls import shown
from backend.labeling.roles import ImageRoles
from backend.labeling.video_roles import VideoRoles
from backend.tasks.answers import Memory, Remembered
from backend.tasks.wanted import WantedRegion, beside, drawn_region, prompted_region

log = logging.getLogger(__name__)

_AFFORDABLE = 20
"""So many times the largest picture's pixels are decoded for one request."""


def newest(task: LabelStudioTask) -> list[dict[str, Any]]:
    """The result of the newest of all drafts and annotations that were not skipped; empty where is none."""
    work = _newest(task)
    return work.result if work is not None else []


def _newest(task: LabelStudioTask) -> Annotation | None:
    # drafts first: of equals, and where nothing says when, they are what somebody works on
    works = [*task.drafts, *(work for work in task.annotations if not work.was_cancelled)]
    return max(works, key=_saved_at, default=None)


def _saved_at(work: Annotation | None) -> float:
    """Seconds since the epoch; 0 where nothing is saved or the time cannot be read."""
    try:
        return datetime.fromisoformat(work.updated_at or work.created_at).timestamp() if work is not None else 0.0
    except ValueError:
        return 0.0


def unfinished(result: Sequence[dict[str, Any]], image: ImageRoles, most_pixels: int) -> list[WantedRegion]:
    """Wanted regions, one for each that lacks something.

    Boxes and points without a mask get one (points with a negative one among them, and of one label, are one region);
    masks, and boxes where boxes are what the project is about, keep their shape and get the words that they lack.
    """
    outputs = {control.name for control in image.geometry}
    wanted = []
    points: dict[tuple[str, ...], list[ResultItem]] = {}
    regions = list(_affordable(regions_of(result, image), most_pixels))
    chosen = beside(image.chosen, [item for items in regions for item in items])
    for items in regions:
        shape = items[0]
        kind = kind_of(shape.type)
        try:
            if kind in MASKS or shape.from_name in outputs:
                # what Label Studio does not show for this region's label is not missing
                said = [item.model_dump() for item in items] if any(c.conditions for c in image.words) else []
                if not {control.name for control in shown(image.words, said)} <= {item.from_name for item in items}:
                    wanted.append(drawn_region(chosen, items, most_pixels))
            elif kind in BOXES:
                wanted.append(prompted_region(chosen, [], shape))
            else:
                points.setdefault(chosen(shape), []).append(shape)
        except PromptError as error:
            # one region that cannot be read must not cost the others
            log.info("region %s is left out: %s", ascii(shape.id), error)
    for group in points.values():
        together = any(point.is_positive is False for point in group)
        parts = [group] if together else [[point] for point in group]
        real = [part for part in parts if any(point.is_positive is not False for point in part)]
        wanted += [prompted_region(chosen, part) for part in real]
    return wanted


def _affordable(regions: Iterable[list[ResultItem]], most_pixels: int) -> Iterator[list[ResultItem]]:
    """The regions; only the newest of them where there are so many large ones that they would keep the front busy."""
    regions = list(regions)
    spent, first = 0, len(regions)
    while first and spent <= _AFFORDABLE * most_pixels:
        first -= 1
        shape = regions[first][0]
        spent += max(0, shape.original_width) * max(0, shape.original_height) if kind_of(shape.type) in MASKS else 0
    yield from regions[first:]


def has_whole(result: Sequence[dict[str, Any]], image: ImageRoles | VideoRoles) -> bool:
    """Whether somebody has filled one of the controls of the whole picture or video."""
    names = {control.name for control in image.whole}
    items = [item for item in items_of(result) if item.from_name in names]
    if isinstance(image, ImageRoles):
        items = [item for item in items if item.from_name not in image.per_item or image.has(item)]
    return bool(items)


def correction(
    negatives: Sequence[ResultItem],
    task: LabelStudioTask,
    project: str,
    image: ImageRoles,
    memory: Memory,
    most_pixels: int,
) -> WantedRegion:
    """A lone "not this" click is meant for the region that it falls on: take what is under it out of that region.

    The regions are those of the draft or annotation, and our own answers that no draft holds yet; of several under the
    click the smallest is meant. Where there is none, it is meant for the newest suggestion that nobody has decided on:
    after a reload its clicks are drawn, and Label Studio does not count them any more.

    Raises:
        PromptError: there is no such region.
    """
    clicks = tuple(point for region in [prompted_region(image.chosen, negatives)] for point in region.prompt.points)
    regions, undecided = _masked(clicks[-1], task, project, image, memory, most_pixels)
    under = [(p, name) for name, p in regions.items() if p.mask is not None and _covers(p.mask, clicks[-1])]
    if not under and undecided:
        under = [(regions[undecided[0]], undecided[0])]
    if not under:
        raise PromptError('a "not this" click alone: click on a thing first, or on a region that is to be corrected')
    prompt, name = min(under, key=_area)
    saved = newest(task)
    ours = memory.get([name]).get(name)
    words = tuple(_changed(ours, items[1:])) if (items := _region(saved, image, name)) and ours is not None else ()
    return WantedRegion(prompt.model_copy(update={"points": (*prompt.points, *clicks)}), words=words, id=name)


def region_under(
    click: PointPrompt, task: LabelStudioTask, project: str, image: ImageRoles, memory: Memory, most_pixels: int
) -> RegionPrompt | None:
    """The region that a click falls on, drawn or suggested; of several the smallest. None where there is none."""
    regions, _ = _masked(click, task, project, image, memory, most_pixels)
    found = [(p, name) for name, p in regions.items() if p.mask is not None and _covers(p.mask, click)]
    return min(found, key=_area)[0] if found else None


def all_known(
    task: LabelStudioTask,
    project: str,
    image: ImageRoles,
    memory: Memory,
    most_pixels: int,
    prompts: Sequence[str] = (),
) -> list[RegionPrompt]:
    """All regions of a picture: those of the draft or annotation, and what was answered to clicks since that was saved.

    Args:
        task, project, image, memory, most_pixels: as of `correction`.
        prompts: ids of what is answered now; what was answered to them before does not count.
    """
    saved, saved_at = newest(task), _saved_at(_newest(task))
    found: dict[str | None, RegionPrompt] = {}
    for items in _affordable(regions_of(saved, image), most_pixels):
        shape = items[0]
        if kind_of(shape.type) in (*BOXES, *MASKS):
            try:
                found[shape.id] = RegionPrompt().model_copy(update=shape_of(shape, most_pixels))
            except PromptError:
                continue
    for region in memory.of_task(project, task.id):
        here = region.image == image.name and region.page in (image.page, None)
        clicked = region.prompt is not None and (region.prompt.points or region.prompt.box is not None)
        if here and clicked and region.mask is not None and region.at > saved_at and not {*region.prompts} & {*prompts}:
            found.setdefault(region.id, RegionPrompt(mask=region.mask))
    return list(found.values())


def _area(found: tuple[RegionPrompt, str]) -> int:
    from model.values.mask import rle_area

    return rle_area(found[0].mask or {})


def _masked(
    click: PointPrompt, task: LabelStudioTask, project: str, image: ImageRoles, memory: Memory, most_pixels: int
) -> tuple[dict[str, RegionPrompt], list[str]]:
    """Masks that may lie under a click, by id: those of the draft or annotation, and our own answers that no draft
    holds yet; and the ids of suggestions that nobody has decided on."""
    regions: dict[str, RegionPrompt] = {}
    saved, saved_at = newest(task), _saved_at(_newest(task))
    drawn = {str(item.get("id")) for item in saved}
    undecided: list[str] = []
    newer: set[str] = set()
    for region in memory.of_task(project, task.id):
        prompts = set(region.prompts)
        replaced, newer = bool(prompts) and prompts <= newer, newer | prompts
        here = region.image == image.name and region.page in (image.page, None)
        if not here or region.mask is None or (replaced and region.id not in drawn):
            continue
        # a region that is older than the draft and not in it was rejected or deleted, unless its prompts are there
        if region.id in drawn or region.at > saved_at or prompts & drawn:
            before = region.prompt or RegionPrompt()
            labels = before.labels or _labels(region, image)
            regions[region.id] = before.model_copy(update={"mask": region.mask, "labels": labels})
            undecided += [region.id] if prompts & drawn else []
    # the answer that we remember is as new as the draft or newer
    others = [items for items in regions_of(saved, image) if items[0].id is not None and items[0].id not in regions]
    for items in _affordable((items for items in others if _may_cover(items[0], click)), most_pixels):
        shape = items[0]
        assert shape.id is not None
        try:
            labels = next((labels for item in items if (labels := image.chosen(item))), ())
            regions[shape.id] = RegionPrompt(mask=rle_of(shape, most_pixels), labels=labels)
        except PromptError:
            continue
    return regions, undecided


def _labels(region: Remembered, image: ImageRoles) -> tuple[str, ...]:
    """The value of the label that we gave a region."""
    for name, label in region.labels.items():
        return image.labels[name].values_of([label]) if name in image.labels else (label,)
    return ()


def _region(result: Sequence[dict[str, Any]], image: ImageRoles, name: str) -> list[ResultItem]:
    return next((items for items in regions_of(result, image) if items[0].id == name), [])


def _changed(ours: Remembered, items: Sequence[ResultItem]) -> Iterator[dict[str, Any]]:
    """The words that are not as we set them, without the geometry that Label Studio copies into each item."""
    said = ours.labels | ours.texts
    for item in items:
        raw = item.model_dump(exclude_unset=True)
        labels, texts = words_of([raw])
        now = (labels | texts).get(item.from_name)
        if now is not None and now != said.get(item.from_name):
            key = "text" if item.type == "textarea" else item.type
            yield raw | {"value": {key: raw["value"][key]}}


def _may_cover(shape: ResultItem, click: PointPrompt) -> bool:
    kind, value = kind_of(shape.type), shape.value.model_extra or {}
    if kind not in MASKS:
        return False
    return may_cover(kind, value, shape.original_width, shape.original_height, click.x, click.y)


def _covers(rle: dict[str, Any], click: PointPrompt) -> bool:
    from model.values.mask import rle_at

    height, width = rle["size"]
    return rle_at(rle, pixel_at(click.y, height), pixel_at(click.x, width))
