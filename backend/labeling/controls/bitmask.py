"""Masks to <BitmaskLabels> and <Bitmask>, as a PNG whose opaque pixels are the region."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from io import BytesIO
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from backend.labeling.controls.base import Geometry, RegionContext


@dataclass(frozen=True)
class Bitmask(Geometry):
    plain: ClassVar[str] = "Bitmask"

    def value(self, context: RegionContext) -> dict[str, Any] | None:
        pixels = np.zeros((*context.mask.shape, 4), np.uint8)
        pixels[context.mask] = 255
        file = BytesIO()
        Image.fromarray(pixels, "RGBA").save(file, "PNG")
        return {"imageDataURL": "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")}
