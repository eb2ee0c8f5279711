"""From the regions of an interactive request's context to the regions that are wanted."""

from __future__ import annotations

from collections.abc import Sequence

from backend.errors import ConfigError
from backend.label_studio.geometry import BOXES, MASKS, POINTS, Box, hull, kind_of
from backend.label_studio.protocol import ResultItem
from backend.label_studio.regions import is_leftover
from backend.labeling.roles import ImageRoles, Roles
from backend.tasks.wanted import Chosen, WantedRegion, beside, drawn_region, prompted_region


def check_names(context: Sequence[ResultItem], roles: Roles) -> None:
    """Raise ConfigError for a region of a control or picture that the config does not have."""
    for item in context:
        if item.from_name not in roles.controls:
            raise ConfigError(
                f"the prompt {item.id or ''} comes from the control {item.from_name!r}, which the labelling config "
                f"lacks (it has {', '.join(sorted(roles.controls)) or 'none'}): reload the page, the config has changed"
            )
        if item.to_name not in roles.images:
            raise ConfigError(
                f"the prompt {item.id or ''} is for {item.to_name!r}, which is no <Image> of the labelling config"
            )


def wanted_regions(
    context: Sequence[ResultItem], image: ImageRoles, most_pixels: int
) -> tuple[list[WantedRegion], list[ResultItem]]:
    """Turn the prompts for one picture into wanted.

    All points make one region (Label Studio sends the undecided clicks of one label together). Each box or ellipse
    makes a region of its own; with boxes there, a point belongs to the smallest box that it lies in, and points
    outside all boxes make one more region, if one of them is positive. Of masks drawn by hand (brush, polygon …) the
    newest one is meant: it keeps its shape and gets its words.

    Args:
        context: the regions of the request's context, oldest first.
        image: the roles of their picture.
        most_pixels: of a mask drawn by hand.

    Returns:
        Regions in the order in which the annotator made them, none if the context holds none; and negative points that
        came alone, which speak about a region that is there already.

    Raises:
        PromptError: a coordinate is missing, or outside the picture, or a box or mask is empty.
    """
    real = [item for item in context if not is_leftover(item)]
    points = [item for item in real if kind_of(item.type) in POINTS]
    boxes = [item for item in real if kind_of(item.type) in BOXES]
    masks = [item for item in real if kind_of(item.type) in MASKS]
    # ordinary keypoints lie in the context without is_positive and mean nothing, unless there is nothing else
    if any(p.is_positive is not None for p in points):
        points = [p for p in points if p.is_positive is not None]
    chosen = beside(image.chosen, real)
    wanted = _boxes_and_points(chosen, points, boxes) if boxes else []
    if masks and not boxes and not points:
        wanted.append(drawn_region(chosen, masks[-1:], most_pixels))
    if points and not boxes:
        if all(p.is_positive is False for p in points):
            return wanted, points
        wanted.append(prompted_region(chosen, points))
    return wanted, []


def _boxes_and_points(chosen: Chosen, points: Sequence[ResultItem], boxes: Sequence[ResultItem]) -> list[WantedRegion]:
    members: list[list[ResultItem]] = [[] for _ in boxes]
    loose: list[ResultItem] = []
    corners = [hull(kind_of(box.type) or "", box.value, box.aspect) for box in boxes]
    for point in points:
        inside = [i for i, corner in enumerate(corners) if _contains(corner, point)]
        if inside:
            members[min(inside, key=lambda i: _area(corners[i]))].append(point)
        elif len(boxes) == 1:
            members[0].append(point)  # a negative point just outside the only box still speaks about it
        else:
            loose.append(point)
    wanted = [prompted_region(chosen, own, box) for box, own in zip(boxes, members, strict=True)]
    if any(p.is_positive is not False for p in loose):
        wanted.append(prompted_region(chosen, loose))
    return wanted


def _contains(box: Box, point: ResultItem) -> bool:
    x, y = point.value.x, point.value.y
    return x is not None and y is not None and box[0] <= x <= box[2] and box[1] <= y <= box[3]


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
