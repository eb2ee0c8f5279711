"""Masks to <BrushLabels> and <Brush>, as Label Studio's own run-length encoding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from backend.label_studio import rle
from backend.labeling.controls.base import Geometry, RegionContext
from model.values.mask import row_runs


@dataclass(frozen=True)
class Brush(Geometry):
    plain: ClassVar[str] = "Brush"

    def value(self, context: RegionContext) -> dict[str, Any] | None:
        return {"format": "rle", "rle": rle.encode_runs(row_runs(context.region.mask))}
