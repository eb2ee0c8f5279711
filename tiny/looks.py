"""What can be told of a thing from the picture alone: colour, place and size, with English and Chinese words."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

UNKNOWN = "object"
"""Class of everything that is in no row of the class table."""

COLOURS = {
    "red": "红色",
    "orange": "橙色",
    "yellow": "黄色",
    "green": "绿色",
    "blue": "蓝色",
    "purple": "紫色",
    "pink": "粉色",
    "brown": "棕色",
    "black": "黑色",
    "grey": "灰色",
    "white": "白色",
    "multicoloured": "彩色",
}
"""Colour words, English to Chinese."""

PLACES = {
    "at the top left": "左上方",
    "at the top": "上方",
    "at the top right": "右上方",
    "on the left": "左侧",
    "in the middle": "中间",
    "on the right": "右侧",
    "at the bottom left": "左下方",
    "at the bottom": "下方",
    "at the bottom right": "右下方",
}
"""Place words, English to Chinese, in reading order of a 3 × 3 grid of equal cells."""

SIZES = {"small": "小", "medium-sized": "中等大小", "large": "大"}
"""Size words, English to Chinese."""

_NAMES = tuple(COLOURS)
_PLACES = tuple(PLACES)
_CLEAR = 0.40  # share of the pixels that one colour must have, else the thing is multicoloured


def colour_shares(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Share of each colour word (the order of COLOURS, multicoloured last and 0) among N×3 uint8 RGB pixels.

    Grey tones count for less: outlines and highlights do not name a thing.
    """
    hsv = cv2.cvtColor(pixels.reshape(1, -1, 3), cv2.COLOR_RGB2HSV)[0].astype(np.float32)
    hue, saturation, value = hsv[:, 0] * 2, hsv[:, 1] / 255, hsv[:, 2] / 255
    name = np.select(
        [
            value < 0.2,
            (saturation < 0.16) & (value > 0.82),
            (saturation < 0.16) & (value < 0.32),
            saturation < 0.16,
            (hue >= 320) & (saturation < 0.75) & (value > 0.6),
            ((hue < 18) | (hue >= 335)) & (saturation < 0.5) & (value > 0.75),
            (hue >= 8) & (hue < 45) & (value < 0.68),
            (hue >= 14) & (hue < 45) & (saturation < 0.45) & (value < 0.85),
            (hue < 14) | (hue >= 345),
            hue < 41,
            hue < 68,
            hue < 165,
            hue < 258,
            hue < 300,
        ],
        [8, 10, 8, 9, 6, 6, 7, 7, 0, 1, 2, 3, 4, 5],
        default=6,
    )
    shares = np.bincount(name, minlength=len(_NAMES)).astype(np.float64)
    shares[8:11] *= 0.7
    return shares / max(shares.sum(), 1e-9)


def colour_of(pixels: NDArray[np.uint8]) -> str:
    """The colour word for N×3 uint8 RGB pixels."""
    shares = colour_shares(pixels)
    best = int(shares.argmax())
    return _NAMES[best] if shares[best] >= _CLEAR else "multicoloured"


def place_of(mask: NDArray[np.bool_]) -> str:
    """The place word for the centre of mass of an H×W mask with at least one pixel."""
    rows, columns = np.nonzero(mask)
    row = min(2, int(3 * (rows.mean() + 0.5) / mask.shape[0]))
    column = min(2, int(3 * (columns.mean() + 0.5) / mask.shape[1]))
    return _PLACES[3 * row + column]


def size_of(mask: NDArray[np.bool_]) -> str:
    """The size word for an H×W mask with at least one pixel, by its box's share of the picture."""
    left, top, right, bottom = box_of(mask)
    share = ((right - left) * (bottom - top) / mask.size) ** 0.5
    return "small" if share < 0.25 else "large" if share > 0.45 else "medium-sized"


def box_of(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Left, top, right, bottom (exclusive), in pixels, of an H×W mask with at least one pixel."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def mirrored(place: str) -> str:
    """The place word after the picture was turned left for right."""
    return place.replace("left", "\0").replace("right", "left").replace("\0", "right")
