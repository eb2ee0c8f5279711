"""What the Enterprise editor's interactive video protocol says: events in a request's context, shapes of the answers.

Label Studio's open edition does not speak it; written after HumanSignal's own example backend of May 2026.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from backend.label_studio.outline import outline

EVENTS = ("capabilities", "prewarm", "predict", "track", "track_progress", "track_cancel", "release")

BOXES = ("VideoRectangle",)
MASKS = ("BitmaskLabels", "Bitmask")
OUTLINES = ("VideoVectorLabels", "VideoVector", "VectorLabels", "PolygonLabels")
OUTPUTS = (*MASKS, *OUTLINES, *BOXES)
"""Kinds of controls of a <Video> that can take an answer, the first that a config has does."""

_TYPES = {"Bitmask": "bitmask", "VideoVector": "videovector"}


def capabilities(version: str) -> dict[str, Any]:
    """What the editor may ask for."""
    track = {"features": ["track"]}
    return {
        "prompts": ["point", "box"],
        "targets": [
            {"tag": "BitmaskLabels", "output": "mask"},
            {"tag": "RectangleLabels", "output": "bbox"},
            {"tag": "PolygonLabels", "output": "polygon"},
            {"tag": "VectorLabels", "output": "polygon"},
            {"tag": "VideoRectangle", "output": "bbox", **track},
            {"tag": "VideoVectorLabels", "output": "polygon", **track},
        ],
        "model_info": {"name": version.partition("@")[0], "version": version},
    }


def type_of(kind: str) -> str:
    """The type of a result item of a control."""
    return _TYPES.get(kind, kind.lower())


def shape(kind: str, mask: np.ndarray, tolerance: float) -> dict[str, Any]:
    """The value of an item: a mask (H, W) as the control of this kind has it.

    Args:
        kind: one of OUTPUTS.
        mask: boolean, not empty.
        tolerance: how far an outline may run beside the mask's edge, pixels.
    """
    if kind in MASKS:
        return picture(mask)
    if kind in OUTLINES:
        return {"points": [{"x": x, "y": y} for x, y in outline(mask, tolerance)], "closed": True}
    return box(mask)


def box(mask: np.ndarray) -> dict[str, Any]:
    """The box of a mask, percentages."""
    from model.values.mask import mask_box

    height, width = mask.shape
    x1, y1, x2, y2 = mask_box(mask) or (0.0, 0.0, 0.0, 0.0)
    across, down = 100 / width, 100 / height
    found = {"x": x1 * across, "y": y1 * down, "width": (x2 - x1) * across, "height": (y2 - y1) * down}
    return {**{name: round(value, 4) for name, value in found.items()}, "rotation": 0}


def picture(mask: np.ndarray) -> dict[str, Any]:
    """A mask as a PNG whose opaque pixels are the region."""
    pixels = np.zeros((*mask.shape, 4), np.uint8)
    pixels[mask] = 255
    file = BytesIO()
    Image.fromarray(pixels, "RGBA").save(file, "PNG")
    url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
    return {"imageDataURL": url, "width": mask.shape[1], "height": mask.shape[0]}


def frames(first: int, window: int, direction: str, count: int) -> Sequence[int]:
    """The frames (from 1) that are to be at hand, the asked one among them."""
    if direction == "backward":
        return range(max(1, first - window + 1), min(first, count) + 1)
    return range(max(1, first), min(first + window - 1, count) + 1)
