"""Masks to <BrushLabels> and <Brush>, as Label Studio's own run-length encoding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from backend.label_studio import rle
from backend.labeling.controls.base import Geometry, RegionContext


@dataclass(frozen=True)
class Brush(Geometry):
    plain: ClassVar[str] = "Brush"

    def value(self, context: RegionContext) -> dict[str, Any] | None:
        return {"format": "rle", "rle": rle.encode(context.mask)}
