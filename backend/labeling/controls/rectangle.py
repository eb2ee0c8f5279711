"""Boxes of masks to <RectangleLabels> and <Rectangle>, where the config has no control for the mask itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from backend.labeling.controls.base import Geometry, RegionContext
from model.values.mask import mask_box


@dataclass(frozen=True)
class Rectangle(Geometry):
    plain: ClassVar[str] = "Rectangle"

    def value(self, context: RegionContext) -> dict[str, Any] | None:
        box = mask_box(context.mask)
        if box is None:
            return None
        height, width = context.mask.shape
        x1, y1, x2, y2 = box
        percent = {"x": x1 / width, "y": y1 / height, "width": (x2 - x1) / width, "height": (y2 - y1) / height}
        return {name: round(100 * share, 4) for name, share in percent.items()} | {"rotation": 0}
