"""A region that is wanted, from whatever the annotator or an earlier annotation says of it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from backend.errors import PromptError
from backend.job import PointPrompt, RegionPrompt
from backend.label_studio.protocol import ResultItem
from backend.label_studio.regions import shape_of

Chosen = Callable[[ResultItem], tuple[str, ...]]
"""The labels of an item by their values in the config, e.g. `ImageRoles.chosen`."""

_SLACK = 0.01  # per cent; what rounding in the browser may add at the picture's edge


def new_id() -> str:
    """For a region; full-length, since shorter ones collide in projects with many regions."""
    return uuid.uuid4().hex


@dataclass(frozen=True)
class WantedRegion:
    """One region to answer.

    Attributes:
        prompt: what the model is asked.
        own: items that a person made, geometry first; they are answered as they are, and only what is missing is
            filled in. Empty where the geometry is to be the model's.
        words: items of labels and texts that a person has changed; they are answered as they are.
        id: of the answered region; another region's own id replaces that one in Label Studio.
    """

    prompt: RegionPrompt
    own: tuple[dict[str, Any], ...] = ()
    words: tuple[dict[str, Any], ...] = ()
    id: str = field(default_factory=new_id)


def beside(chosen: Chosen, items: Sequence[ResultItem]) -> Chosen:
    """`chosen`, and for an item without labels of its own those that a <Labels> tag gave it, under the same id."""
    given = {item.id: chosen(item) for item in items if item.type == "labels"}
    return lambda item: chosen(item) or given.get(item.id, ())


def prompted_region(chosen: Chosen, points: Sequence[ResultItem], box: ResultItem | None = None) -> WantedRegion:
    """Clicks, a box with or without clicks: the model makes the mask."""
    labels = chosen(box if box is not None else points[-1])
    prompt = RegionPrompt(points=tuple(point_of(p) for p in points), labels=labels)
    return WantedRegion(prompt.model_copy(update=shape_of(box, 0)) if box is not None else prompt)


def drawn_region(chosen: Chosen, items: Sequence[ResultItem], most_pixels: int) -> WantedRegion:
    """A region whose geometry (the first item) a person drew: it stays, and the model says what it is."""
    labels = next((labels for item in items if (labels := chosen(item))), ())
    own = tuple(item.model_dump(exclude_unset=True) for item in items)
    return WantedRegion(RegionPrompt(labels=labels).model_copy(update=shape_of(items[0], most_pixels)), own)


def point_of(item: ResultItem) -> PointPrompt:
    return PointPrompt(
        x=_inside(item.value.x, "x of the point"),
        y=_inside(item.value.y, "y of the point"),
        positive=item.is_positive is not False,
    )


def _inside(value: float | None, name: str) -> float:
    if value is None:
        raise PromptError(f"{name} is missing: send percentages of the picture")
    if not -_SLACK <= value <= 100 + _SLACK:
        raise PromptError(f"{name} is {value:g} %: the prompt lies outside the picture (0 to 100 %)")
    return min(max(value, 0.0), 100.0)
