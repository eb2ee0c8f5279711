"""Masks to <BrushLabels> and <Brush>, as Label Studio's own run-length encoding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from backend.controls.base import Geometry, RegionContext


@dataclass(frozen=True)
class Brush(Geometry):
    plain: ClassVar[str] = "Brush"

    def value(self, context: RegionContext) -> dict[str, Any] | None:
        from label_studio_sdk.converter import brush

        return {"format": "rle", "rle": brush.mask2rle(context.mask.astype("uint8") * 255)}
