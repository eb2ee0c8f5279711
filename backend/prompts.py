"""From the regions of an interactive request's context to prompts, one for each region that is asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence

from backend.errors import ConfigError, PromptError
from backend.job import PointPrompt, RegionPrompt
from backend.protocol import ContextRegion, RegionValue
from backend.roles import Roles

_SLACK = 0.01  # per cent; what rounding in the browser may add at the picture's edge

_POINTS = ("keypointlabels", "keypoint")
_BOXES = ("rectanglelabels", "rectangle")


def read_prompts(context: Sequence[ContextRegion], roles: Roles) -> list[RegionPrompt]:
    """Turn a context into prompts.

    All points make one region (Label Studio sends the undecided clicks of one label together). Each box makes a region
    of its own; with boxes there, a point belongs to the smallest box that it lies in, and points outside all boxes
    make one more region, if one of them is positive.

    Args:
        context: the regions of the request's context.
        roles: of the labelling config.

    Returns:
        Prompts in the order in which the annotator made them; none if the context holds none.

    Raises:
        ConfigError: a region names a control or picture that the config does not have.
        PromptError: a coordinate is missing, or outside the picture, or a box is empty or inverted.
    """
    for region in context:
        if region.from_name not in roles.controls:
            raise ConfigError(
                f"the prompt {region.id or ''} comes from the control {region.from_name!r}, which the labelling config "
                f"lacks (it has {', '.join(sorted(roles.controls)) or 'none'}): reload the page, the config has changed"
            )
        if region.to_name not in roles.images:
            raise ConfigError(
                f"the prompt {region.id or ''} is for {region.to_name!r}, which is no <Image> of the labelling config"
            )
    points = [r for r in context if r.type in _POINTS and not _is_leftover(r)]
    boxes = [r for r in context if r.type in _BOXES and not _is_leftover(r)]
    # ordinary keypoints lie in the context without is_positive and mean nothing, unless there is nothing else
    if any(p.is_positive is not None for p in points):
        points = [p for p in points if p.is_positive is not None]
    members: list[list[ContextRegion]] = [[] for _ in boxes]
    loose: list[ContextRegion] = []
    corners = [_box(box.value) for box in boxes]
    for point in points:
        inside = [i for i, corner in enumerate(corners) if _contains(corner, point.value)]
        if inside:
            members[min(inside, key=lambda i: _area(corners[i]))].append(point)
        elif len(boxes) == 1:
            members[0].append(point)  # a negative point just outside the only box still speaks about it
        else:
            loose.append(point)
    prompts = [
        RegionPrompt(points=tuple(_point(p) for p in own), box=corner, label=_label(box))
        for box, corner, own in zip(boxes, corners, members, strict=True)
    ]
    if loose and (not boxes or any(p.is_positive is not False for p in loose)):
        prompts.append(RegionPrompt(points=tuple(_point(p) for p in loose), label=_label(loose[-1])))
    return prompts


def _is_leftover(region: ContextRegion) -> bool:
    """Label Studio files a mask's RLE under a prompt's type when a prompt label is selected at accept time."""
    return region.value.x is None and region.value.y is None and region.is_positive is None


def _number(value: float | None, name: str) -> float:
    if value is None:
        raise PromptError(f"{name} of the prompt is missing: send percentages of the picture")
    return value


def _inside(value: float, name: str) -> float:
    if not -_SLACK <= value <= 100 + _SLACK:
        raise PromptError(f"{name} is {value:g} %: the prompt lies outside the picture (0 to 100 %)")
    return min(max(value, 0.0), 100.0)


def _point(region: ContextRegion) -> PointPrompt:
    return PointPrompt(
        x=_inside(_number(region.value.x, "x"), "x of the point"),
        y=_inside(_number(region.value.y, "y"), "y of the point"),
        positive=region.is_positive is not False,
    )


def _box(value: RegionValue) -> tuple[float, float, float, float]:
    """The upright box around a rectangle that may be turned about its top left corner, cut at the picture's edge."""
    x, y = _number(value.x, "x"), _number(value.y, "y")
    width, height = _number(value.width, "width"), _number(value.height, "height")
    if width <= 0 or height <= 0:
        raise PromptError(f"the box is {width:g} % wide and {height:g} % high: draw one that is not empty or inverted")
    # percentages of width and height are other lengths; for the upright hull of a turned box that is near enough
    angle = math.radians(value.rotation)
    cos, sin = math.cos(angle), math.sin(angle)
    xs = [x + dx * cos - dy * sin for dx, dy in ((0, 0), (width, 0), (0, height), (width, height))]
    ys = [y + dx * sin + dy * cos for dx, dy in ((0, 0), (width, 0), (0, height), (width, height))]
    x1, y1, x2, y2 = max(min(xs), 0.0), max(min(ys), 0.0), min(max(xs), 100.0), min(max(ys), 100.0)
    if x1 >= x2 or y1 >= y2:
        raise PromptError("the box lies outside the picture: draw it on the picture")
    return x1, y1, x2, y2


def _contains(box: tuple[float, float, float, float], value: RegionValue) -> bool:
    x, y = _number(value.x, "x"), _number(value.y, "y")
    return box[0] <= x <= box[2] and box[1] <= y <= box[3]


def _area(box: tuple[float, float, float, float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _label(region: ContextRegion) -> str | None:
    labels = region.value.keypointlabels or region.value.rectanglelabels or region.value.labels
    return labels[0] if labels else None
