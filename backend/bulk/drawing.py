"""Answers drawn over their picture, or over a few frames of their video, for the contact sheet."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from backend.errors import PictureError, from_model
from backend.fetching.videos import opened
from backend.label_studio.geometry import MASKS, kind_of, mask_of
from backend.label_studio.regions import words_of
from backend.label_studio.video_sequences import boxes_on, keyframes_of
from backend.settings import Settings

WIDTH = 420
"""Of a drawing, pixels."""

_COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#f032e6", "#9a6324")
_FRAMES = 4  # of a video, two beside two

Words = tuple[tuple[str, str], ...]
"""(colour, label and texts) of each region."""


def is_video(result: Iterable[dict[str, Any]]) -> bool:
    """Whether an answer is about a video."""
    return any(item.get("type") in ("videorectangle", "timelinelabels") for item in result)


def draw_picture(data: bytes, result: Sequence[dict[str, Any]], most_pixels: int) -> tuple[str, Words]:
    """A JPEG file in base64, and the words. Raises PictureError for what cannot be shown."""
    from model import open_picture

    try:
        picture = _narrow(open_picture(data, most_pixels), WIDTH)
    except Exception as error:
        known = from_model(error)
        if known is None:
            raise
        raise PictureError(f"the picture cannot be shown: {known}") from None
    regions = _regions(result)
    for colour, items in regions:
        _mark(picture, items[0], colour, most_pixels)
    return _jpeg(picture), _words(regions)


def draw_video(file: Path, result: Sequence[dict[str, Any]], settings: Settings) -> tuple[str, Words]:
    """The same for a video: frames from the first box to the last, the boxes on them. Raises model's VideoError."""
    video = opened(file, settings)
    regions = _regions(result)
    times = [time for _, items in regions for time in _times(items[0])] or [0.0, video.duration_s]
    shown = np.linspace(min(times), min(max(times), video.duration_s), _FRAMES)
    height = round(WIDTH / 2 * video.height / video.width)
    sheet = Image.new("RGB", (WIDTH, 2 * max(1, height)))
    for place, time_s in enumerate(shown):
        frame = _narrow(video.frame(video.nearest(float(time_s))), WIDTH // 2)
        for colour, items in regions:
            _follow(frame, items[0], colour, float(time_s))
        sheet.paste(frame, (place % 2 * (WIDTH // 2), place // 2 * height))
    return _jpeg(sheet), _words(regions)


def _regions(result: Sequence[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Colour and items of each region."""
    names = dict.fromkeys(item["id"] for item in result)
    return [
        (_COLOURS[number % len(_COLOURS)], [item for item in result if item["id"] == name])
        for number, name in enumerate(names)
    ]


def _words(regions: Sequence[tuple[str, list[dict[str, Any]]]]) -> Words:
    found = []
    for colour, items in regions:
        labels, texts = words_of(items)
        found.append((colour, ", ".join(dict.fromkeys([*labels.values(), *texts.values()]))))
    return tuple(found)


def _narrow(picture: Image.Image, width: int) -> Image.Image:
    return picture.resize((width, max(1, round(width * picture.height / picture.width))))


def _jpeg(picture: Image.Image) -> str:
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=80)
    return base64.b64encode(out.getvalue()).decode()


def _mark(picture: Image.Image, item: dict[str, Any], colour: str, most_pixels: int) -> None:
    kind, value = kind_of(str(item.get("type", ""))), item.get("value", {})
    if kind in MASKS:
        mask = mask_of(kind, value, item.get("original_width", 0), item.get("original_height", 0), most_pixels)
        small = np.asarray(Image.fromarray(mask).resize(picture.size))
        tint = Image.new("RGB", picture.size, colour)
        picture.paste(tint, mask=Image.fromarray((small * 110).astype(np.uint8)))
    elif kind == "rectangle":
        _rectangle(picture, tuple(float(value.get(side, 0)) for side in ("x", "y", "width", "height")), colour)


def _times(item: dict[str, Any]) -> list[float]:
    """Seconds of a tracked region's keyframes."""
    sequence = item.get("value", {}).get("sequence", [])
    return [float(one["time"]) for one in sequence if isinstance(one.get("time"), int | float)]


def _follow(picture: Image.Image, item: dict[str, Any], colour: str, time_s: float) -> None:
    """The box of a tracked region at a time, where it has one."""
    value = item.get("value", {})
    rates = [one["frame"] / one["time"] for one in value.get("sequence", []) if one.get("time")]
    if not rates:
        return
    for box in boxes_on(keyframes_of(value), np.array([time_s * rates[-1]])):
        if box is not None:
            _rectangle(picture, box, colour)


def _rectangle(picture: Image.Image, box: tuple[float, ...], colour: str) -> None:
    """`box` is x, y, width, height in percentages."""
    x, y, width, height = box
    corners = (x * picture.width, y * picture.height, (x + width) * picture.width, (y + height) * picture.height)
    ImageDraw.Draw(picture).rectangle([corner / 100 for corner in corners], outline=colour, width=3)
