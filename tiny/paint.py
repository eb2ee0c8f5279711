"""Everything that colours pixels in a scene: textures, other colours for things, shadows, light, blur and noise."""

from __future__ import annotations

import colorsys
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from tiny import looks

Picture = NDArray[Any]
"""uint8, height × width × 3 (RGB) or 4 (RGBA)."""

_PAINTS = {
    "red": (2, 0.85, 0.85),
    "orange": (28, 0.9, 0.95),
    "yellow": (54, 0.85, 0.97),
    "green": (125, 0.7, 0.7),
    "blue": (218, 0.75, 0.85),
    "purple": (275, 0.65, 0.75),
    "pink": (333, 0.45, 0.97),
    "brown": (25, 0.65, 0.5),
    "black": (0, 0.0, 0.2),
    "grey": (0, 0.03, 0.6),
    "white": (0, 0.02, 1.0),
}  # hue 0–360, saturation, value


_SOLID = 0.55  # an icon whose outline is drawn to more than this share is a solid shape, else a line


def trim(cut: Picture) -> Picture:
    """The part of an RGBA cut-out that is not transparent."""
    left, top, right, bottom = looks.box_of(cut[..., 3] > 100)
    return np.ascontiguousarray(cut[top:bottom, left:right])


def crop(rng: Generator, source: Picture, width: int, height: int) -> Picture:
    """A random part of a photograph, at a random zoom, as width × height pixels."""
    high, wide = source.shape[:2]
    span = min(wide / width, high / height) * rng.uniform(0.35, 1.0)
    part_w, part_h = max(8, int(width * span)), max(8, int(height * span))
    left, top = rng.integers(wide - part_w + 1), rng.integers(high - part_h + 1)
    part = cv2.resize(source[top : top + part_h, left : left + part_w], (width, height), interpolation=cv2.INTER_AREA)
    return part[:, ::-1] if rng.random() < 0.5 else part


def texture(rng: Generator, width: int, height: int) -> Picture:
    """Two colours mixed by smooth noise, stripes or a slope, with a little grain."""
    first, second = rng.uniform(20, 240, (2, 3))
    kind = rng.integers(3)
    if kind == 0:
        mix = cv2.resize(
            rng.random((rng.integers(2, 20), rng.integers(2, 20))), (width, height), interpolation=cv2.INTER_CUBIC
        )
    else:
        turn = rng.uniform(0, np.pi)
        rows, columns = np.mgrid[0:height, 0:width] / max(width, height)
        along = rows * np.sin(turn) + columns * np.cos(turn)
        mix = along if kind == 1 else 0.5 + 0.5 * np.sin(along * rng.uniform(10, 90))
    flat = (
        first + np.clip(mix, 0, 1)[..., None] * (second - first) + rng.normal(0, rng.uniform(0, 10), (height, width, 1))
    )
    return np.clip(flat, 0, 255).astype(np.uint8)


def recolour(rng: Generator, cut: Picture) -> Picture:
    """Small changes of tone; things without a clear colour, and some others, are painted over in one."""
    hsv = cv2.cvtColor(cut[..., :3], cv2.COLOR_RGB2HSV).astype(np.float32)
    shares = np.sort(looks.colour_shares(cut[..., :3][cut[..., 3] > 128]))
    clear = shares[-1] > 0.5 and shares[-1] - shares[-2] > 0.2
    if rng.random() < (0.1 if clear else 0.45):
        hue, saturation, value = _PAINTS[list(_PAINTS)[rng.integers(len(_PAINTS))]]
        light = hsv[..., 2] / 255
        hsv[..., 0] = hue / 2
        hsv[..., 1] = saturation * 255 * (0.8 + 0.2 * hsv[..., 1] / 255)
        hsv[..., 2] = 255 * np.clip(value * (0.72 + 0.4 * light), 0, 1)
        hsv[..., 2] *= np.where(light < 0.15, 0.55, 1)  # outlines stay dark
    else:
        hsv[..., 0] = (hsv[..., 0] + rng.normal(0, 4)) % 180
        hsv[..., 1] *= rng.uniform(0.75, 1.25)
        hsv[..., 2] *= rng.uniform(0.8, 1.15)
    hsv[..., 0] = hsv[..., 0] % 180
    colour = cv2.cvtColor(np.clip(hsv, 0, 255).astype(np.uint8), cv2.COLOR_HSV2RGB)
    return np.dstack([colour, cut[..., 3]])


def inked(rng: Generator, cut: Picture) -> Picture:
    """A plain icon (red channel: how much of a pixel is drawn; alpha: the whole outline) in colours made up anew.

    A thin line becomes a dark or light rim about a body, a solid shape the body itself with its gaps in another tone.
    """
    drawn = cut[..., 0].astype(np.float32)[..., None] / 255
    alpha = cut[..., 3]
    body, other = _colour(rng), _colour(rng)
    share = float(drawn[alpha > 128].mean()) if (alpha > 128).any() else 1.0
    if share < _SOLID:
        tone = rng.random()
        line = body * rng.uniform(0.05, 0.5) if tone < 0.6 else other if tone < 0.8 else np.full(3, 245.0)
        mixed = body + drawn * (line - body)
    else:
        gaps = other if rng.random() < 0.4 else np.clip(body * rng.uniform(0.2, 1.9), 0, 255)
        mixed = gaps + drawn * (body - gaps)
        if rng.random() < 0.35:  # the gaps are holes
            alpha = np.minimum(alpha, cut[..., 0])
    if rng.random() < 0.5:  # lit from one side
        rows, columns = np.mgrid[0 : cut.shape[0], 0 : cut.shape[1]] / max(cut.shape[:2])
        turn = rng.uniform(0, 2 * np.pi)
        mixed = mixed * (1 + rng.uniform(0.1, 0.5) * (rows * np.sin(turn) + columns * np.cos(turn)))[..., None]
    return np.dstack([np.clip(mixed, 0, 255).astype(np.uint8), alpha])


def _colour(rng: Generator) -> NDArray[np.float64]:
    """RGB, 0…255, near one of the named colours."""
    hue, saturation, value = _PAINTS[list(_PAINTS)[rng.integers(len(_PAINTS))]]
    hsv = np.array(
        [hue / 360 + rng.normal(0, 0.02), saturation * rng.uniform(0.7, 1.15), value * rng.uniform(0.75, 1.1)]
    )
    red, green, blue = colorsys.hsv_to_rgb(hsv[0] % 1, min(1.0, hsv[1]), min(1.0, hsv[2]))
    return np.array([red, green, blue]) * 255


def restyled(rng: Generator, cut: Picture) -> Picture:
    """Often the thing in quite other tones, so that what it is has to be told from its shape."""
    pick = rng.random()
    if pick > 0.5:
        return cut
    hsv = cv2.cvtColor(cut[..., :3], cv2.COLOR_RGB2HSV).astype(np.int16)
    if pick < 0.2:  # other hues
        hsv[..., 0] = (hsv[..., 0] + rng.integers(180)) % 180
    elif pick < 0.27:  # grey
        hsv[..., 1] = hsv[..., 1] * rng.uniform(0, 0.3)
    elif pick < 0.34:  # few tones
        step = int(rng.integers(60, 130))
        hsv[..., 2] = np.clip(hsv[..., 2] // step * step + step // 2, 0, 255)
    elif pick < 0.4:  # light for dark
        hsv[..., 2] = 255 - hsv[..., 2]
    else:  # one colour, its own lights and shadows
        body = np.array([[_colour(rng)]]).astype(np.uint8)
        one = cv2.cvtColor(body, cv2.COLOR_RGB2HSV)[0, 0].astype(np.int16)
        keep = rng.uniform(0.2, 1.0)
        hsv[..., 0], hsv[..., 1] = one[0], one[1]
        hsv[..., 2] = one[2] * (1 - keep) + keep * hsv[..., 2]
    return np.dstack([cv2.cvtColor(np.clip(hsv, 0, 255).astype(np.uint8), cv2.COLOR_HSV2RGB), cut[..., 3]])


def shade(rng: Generator, canvas: NDArray[Any], alpha: NDArray[Any]) -> NDArray[Any]:
    """The canvas with the soft shadow of a thing that is about to be pasted."""
    shift = np.array([[1, 0, rng.uniform(-8, 8)], [0, 1, rng.uniform(1, 9)]])
    shadow = cv2.GaussianBlur(cv2.warpAffine(alpha, shift, alpha.shape[::-1]), (0, 0), rng.uniform(1.5, 5))
    return canvas * (1 - rng.uniform(0.2, 0.55) * shadow[..., None])


def develop(rng: Generator, canvas: NDArray[Any]) -> Picture:
    """Light, tint, blur, noise and JPEG loss over the whole picture."""
    canvas = canvas * rng.uniform(0.85, 1.12) * rng.uniform(0.96, 1.04, 3) + rng.uniform(-8, 8)
    if rng.random() < 0.3:
        canvas = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.4, 1.1))
    if rng.random() < 0.4:
        canvas = canvas + rng.normal(0, rng.uniform(1, 9), canvas.shape)
    picture: Picture = np.clip(canvas, 0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        _, code = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(45, 95))])
        picture = np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR))
    return picture
