"""Masks to <PolygonLabels> and <Polygon>, as one simplified outline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from backend.label_studio.outline import outline
from backend.labeling.controls.base import Geometry, RegionContext


@dataclass(frozen=True)
class Polygon(Geometry):
    plain: ClassVar[str] = "Polygon"

    def value(self, context: RegionContext) -> dict[str, Any] | None:
        points = outline(context.mask, context.options.polygon_tolerance)
        if len(points) < 3:
            return None
        return {"points": [list(point) for point in points], "closed": True}
