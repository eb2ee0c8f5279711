"""Masks to <VectorLabels> and <Vector>, as one closed path of straight pieces."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any, ClassVar

from backend.label_studio.outline import outline
from backend.labeling.controls.base import Geometry, RegionContext


@dataclass(frozen=True)
class Vector(Geometry):
    plain: ClassVar[str] = "Vector"

    def value(self, context: RegionContext) -> dict[str, Any] | None:
        points = outline(context.mask, context.options.polygon_tolerance)
        if len(points) < 3:
            return None
        before: str | None = None
        vertices = []
        for x, y in points:
            name = uuid.uuid4().hex[:10]
            vertices.append({"id": name, "x": x, "y": y, "prevPointId": before, "isBezier": False})
            before = name
        return {"vertices": vertices, "closed": True}
