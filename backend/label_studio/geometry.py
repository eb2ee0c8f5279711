"""Label Studio's geometries as masks and boxes: what a person or we drew before, read back."""

from __future__ import annotations

import contextlib
import math
import threading
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from backend.errors import PromptError
from backend.label_studio import rle
from backend.label_studio.protocol import RegionValue
from backend.net import data_url

POINTS = ("keypoint",)
BOXES = ("rectangle", "ellipse")
MASKS = ("brush", "bitmask", "polygon", "vector")
KINDS = (*POINTS, *BOXES, *MASKS)

Box = tuple[float, float, float, float]

_MOST_RLE = 1 << 20
"""Bytes of a brush's run-length encoding: a quarter of a million runs or more; it is read run by run, in the front."""

_DAMAGE = (LookupError, TypeError, ValueError, ArithmeticError, OSError, SyntaxError, Image.DecompressionBombError)
"""What reading a stranger's drawing raises: numbers that are none, pictures that are none."""

_FAR = 1000.0
"""Per cent of the picture."""

_LARGE_PIXELS = 16_000_000
_LARGE = threading.BoundedSemaphore(2)


def kind_of(type_name: str) -> str | None:
    """`brushlabels` and `brush` → `brush`; None for what has no geometry of a picture."""
    kind = type_name.removesuffix("labels")
    return kind if kind in KINDS else None


def hull(kind: str, value: RegionValue, aspect: float = 1.0) -> Box:
    """The upright box around a rectangle or an ellipse, turned or not, cut at the picture's edge; percentages.

    Args:
        kind: rectangle or ellipse.
        value: of the region; it is turned as the picture's pixels lie, not its percentages.
        aspect: the picture's width / height; of no account where nothing is turned.

    Raises:
        PromptError: a number is missing, or the box is empty or outside the picture.
    """
    if kind == "ellipse":
        centre_x, centre_y = _number(value.x, "x"), _number(value.y, "y")
        rx, ry = _number(value.radiusX, "radiusX"), _number(value.radiusY, "radiusY")
        if rx <= 0 or ry <= 0:
            raise PromptError("the ellipse is empty: draw one that covers the thing")
        # a turned ellipse turns about its centre
        angle = math.radians(value.rotation)
        dx = math.hypot(rx * aspect * math.cos(angle), ry * math.sin(angle)) / aspect
        dy = math.hypot(rx * aspect * math.sin(angle), ry * math.cos(angle))
        xs, ys = [centre_x - dx, centre_x + dx], [centre_y - dy, centre_y + dy]
    else:
        x, y = _number(value.x, "x"), _number(value.y, "y")
        width, height = _number(value.width, "width"), _number(value.height, "height")
        if width <= 0 or height <= 0:
            raise PromptError(
                f"the box is {width:g} % wide and {height:g} % high: draw one that is not empty or inverted"
            )
        # a rectangle turns about its top left corner
        angle = math.radians(value.rotation)
        cos, sin = math.cos(angle), math.sin(angle)
        corners = ((0, 0), (width, 0), (0, height), (width, height))
        xs = [x + dx * cos - dy * sin / aspect for dx, dy in corners]
        ys = [y + dx * sin * aspect + dy * cos for dx, dy in corners]
    x1, y1, x2, y2 = max(min(xs), 0.0), max(min(ys), 0.0), min(max(xs), 100.0), min(max(ys), 100.0)
    if x1 >= x2 or y1 >= y2:
        raise PromptError("the box lies outside the picture: draw it on the picture")
    return x1, y1, x2, y2


def mask_of(kind: str, value: dict[str, Any], width: int, height: int, most_pixels: int) -> np.ndarray:
    """A brush, bitmask, polygon or vector region as a boolean mask (height, width).

    Raises:
        PromptError: its numbers are no such region, the mask is empty, or the picture is larger than most_pixels.
    """
    if width < 1 or height < 1 or width * height > most_pixels:
        raise PromptError(f"a region of a picture of {width}×{height} pixels: sizes from 1 to {most_pixels} are read")
    try:
        # large ones wait for each other: of a hundred million pixels each takes half a gigabyte
        with _LARGE if width * height > _LARGE_PIXELS else contextlib.nullcontext():
            mask = _decode(kind, value, width, height)
    except _DAMAGE as error:
        raise PromptError(f"the {kind} region cannot be read ({type(error).__name__}): draw it anew") from None
    if not mask.any():
        raise PromptError(f"the {kind} region is empty: draw it anew")
    return mask


def may_cover(kind: str, value: dict[str, Any], width: int, height: int, x: float, y: float) -> bool:
    """Whether a point (in percentages of the picture) can lie in such a region, as far as it is cheap to say.

    Exact for brushes, the box around polygons and vectors, always for bitmasks, never for what cannot be read.
    """
    if width < 1 or height < 1:
        return False
    column, row = pixel_at(x, width), pixel_at(y, height)
    try:
        if kind == "brush":
            return rle.at(_rle_bytes(value["rle"]), width * height, row * width + column)
        if kind == "bitmask":
            return True
        # the rasteriser rounds
        xs, ys = zip(*_ring(kind, value), strict=True)
        slack_x, slack_y = 200 / width, 200 / height
        return min(xs) - slack_x <= x <= max(xs) + slack_x and min(ys) - slack_y <= y <= max(ys) + slack_y
    except _DAMAGE:
        return False


def pixel_at(percentage: float, size: int) -> int:
    """Number of the column or row at a place in percentages."""
    return min(int(percentage / 100 * size), size - 1)


def _decode(kind: str, value: dict[str, Any], width: int, height: int) -> np.ndarray:
    if kind == "brush":
        return _brush(value["rle"], width, height)
    if kind == "bitmask":
        return _bitmask(str(value["imageDataURL"]), width, height)
    return _polygon(_ring(kind, value), width, height)


def _brush(encoded: Any, width: int, height: int) -> np.ndarray:
    return rle.decode(_rle_bytes(encoded), width * height).reshape(height, width)


def _rle_bytes(encoded: Any) -> bytes:
    if not isinstance(encoded, list) or len(encoded) > _MOST_RLE:
        raise ValueError("no run-length encoding, or a longer one than any drawing has")
    # bytes refuses what is not 0..255
    return bytes(encoded)


def _bitmask(url: str, width: int, height: int) -> np.ndarray:
    image = Image.open(BytesIO(data_url.decode(url)), formats=["PNG"])
    if image.size != (width, height):
        raise ValueError("the bitmask is of another picture")
    if "A" in image.getbands():
        return np.asarray(image.getchannel("A")) > 127
    return np.asarray(image.convert("L")) > 127


def _ring(kind: str, value: dict[str, Any]) -> list[tuple[float, float]]:
    if kind == "vector":
        if not value.get("closed"):
            raise ValueError("an open path is no region")
        return [(float(vertex["x"]), float(vertex["y"])) for vertex in value["vertices"]]
    return [(float(x), float(y)) for x, y in value["points"]]


def _polygon(ring: list[tuple[float, float]], width: int, height: int) -> np.ndarray:
    # the rasteriser walks every line that it is given
    if len(ring) < 3 or not all(abs(number) <= _FAR for corner in ring for number in corner):
        raise ValueError("fewer than three corners, or one that is no number or far outside the picture")
    canvas = Image.new("1", (width, height))
    # the rasteriser counts from pixels' centres
    corners = [(x / 100 * width - 0.5, y / 100 * height - 0.5) for x, y in ring]
    ImageDraw.Draw(canvas).polygon(corners, fill=1, outline=1)
    return np.asarray(canvas)


def _number(value: float | None, name: str) -> float:
    if value is None:
        raise PromptError(f"{name} of the prompt is missing: send percentages of the picture")
    return value
