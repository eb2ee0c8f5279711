"""A region's geometry at its picture's size: as the corners that a person drew, as a mask, as a box."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from pycocotools import mask as coco

from backend.errors import PromptError
from backend.label_studio.geometry import MASKS, hull, kind_of, mask_of
from backend.label_studio.outline import outline
from backend.label_studio.protocol import RegionValue, ResultItem
from model.values.mask import from_rle, rle_area, to_coco_rle

Ring = list[tuple[float, float]]

_ELLIPSE = 96  # corners
_TOLERANCE = 0.5  # pixels that an outline may run beside the mask's edge


@dataclass(frozen=True)
class Shape:
    """Attributes: width, height: of the picture, pixels; ring: corners in pixels, or None where it is a mask."""

    kind: str
    value: dict[str, Any]
    width: int
    height: int
    most_pixels: int
    ring: Ring | None = None

    @classmethod
    def of(cls, item: ResultItem, width: int, height: int, most_pixels: int) -> Shape:
        """Of a rectangle, an ellipse or a mask.

        Raises:
            PromptError: its numbers are no such region, or it is empty or outside the picture.
        """
        kind = kind_of(item.type)
        assert kind is not None
        value = item.value
        ring = None
        if kind in ("rectangle", "ellipse"):
            hull(kind, value, width / height)
            ring = corners_of(kind, value, width, height)
        elif kind == "polygon":
            ring = _polygon(value, width, height)
        return cls(kind, value.model_dump(exclude_unset=True), width, height, most_pixels, ring)

    @cached_property
    def rle(self) -> dict[str, Any]:
        """COCO's compressed run-length encoding, with every hole and piece.

        Raises:
            PromptError: it cannot be read, or is empty.
        """
        if self.kind in MASKS:
            return to_coco_rle(mask_of(self.kind, self.value, self.width, self.height, self.most_pixels))
        # as COCO's own tools fill the corners that they read
        flat = [number for corner in self.ring or () for number in corner]
        (encoded,) = coco.frPyObjects([flat], self.height, self.width)
        found = {"size": [self.height, self.width], "counts": encoded["counts"].decode("ascii")}
        if not rle_area(found):
            raise PromptError(f"the {self.kind} covers no pixel: draw it anew")
        return found

    @property
    def mask(self) -> np.ndarray:
        """Boolean (height, width); it is not kept: a picture may have a thousand regions."""
        return from_rle(self.rle)

    @cached_property
    def area(self) -> int:
        """Pixels."""
        return rle_area(self.rle)

    @cached_property
    def box(self) -> tuple[float, float, float, float]:
        """x, y, width, height in pixels, inside the picture."""
        if self.kind == "rectangle":
            value = RegionValue.model_validate(self.value)
            x1, y1, x2, y2 = hull("rectangle", value, self.width / self.height)
            scaled = (x1 * self.width, y1 * self.height, (x2 - x1) * self.width, (y2 - y1) * self.height)
            left, top, width, height = (round(number / 100, 3) for number in scaled)
            return left, top, width, height
        x, y, width, height = map(float, coco.toBbox({"size": self.rle["size"], "counts": self.rle["counts"].encode()}))
        return x, y, width, height

    def outline(self) -> Ring:
        """One ring in pixels: holes and pieces that lie apart are joined to it by bridges without width."""
        if self.ring is not None:
            return self.ring
        percent = outline(self.mask, _TOLERANCE, least=0.0)
        return [(x / 100 * self.width, y / 100 * self.height) for x, y in percent]


def corners_of(kind: str, value: RegionValue, width: int, height: int) -> Ring:
    """Of a rectangle or an ellipse, turned as Label Studio turns them: in pixels."""
    assert value.x is not None and value.y is not None
    x, y, angle = value.x / 100 * width, value.y / 100 * height, math.radians(value.rotation)
    if kind == "rectangle":
        across, down = (value.width or 0) / 100 * width, (value.height or 0) / 100 * height
        offsets: Sequence[tuple[float, float]] = ((0, 0), (across, 0), (across, down), (0, down))
    else:
        rx, ry = (value.radiusX or 0) / 100 * width, (value.radiusY or 0) / 100 * height
        around = [2 * math.pi * i / _ELLIPSE for i in range(_ELLIPSE)]
        offsets = [(rx * math.cos(turn), ry * math.sin(turn)) for turn in around]
    cos, sin = math.cos(angle), math.sin(angle)
    return [(x + dx * cos - dy * sin, y + dx * sin + dy * cos) for dx, dy in offsets]


def _polygon(value: RegionValue, width: int, height: int) -> Ring:
    try:
        points = [(float(x) / 100 * width, float(y) / 100 * height) for x, y in (value.model_extra or {})["points"]]
    except (LookupError, TypeError, ValueError):
        raise PromptError("the polygon has no corners: draw it anew") from None
    if len(points) < 3:
        raise PromptError("the polygon has fewer than three corners: draw it anew")
    return points
