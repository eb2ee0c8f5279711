"""Small videos for tests: a bright square on a ground whose brightness is the frame's number."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

SIDE = 40


def picture(number: int, width: int = 160, height: int = 120) -> Image.Image:
    """A square that moves 2 pixels a frame; the ground has the grey 2 · number."""
    pixels = np.full((height, width, 3), 2 * number, np.uint8)
    left = 4 + 2 * number % (width - SIDE - 8)
    pixels[40 : 40 + SIDE, left : left + SIDE] = (255, 60, 20)
    return Image.fromarray(pixels)


def number_of(image: Image.Image) -> int:
    """The number of a frame, from its ground."""
    return round(float(np.asarray(image)[:30].mean()) / 2)


def write(
    path: Path,
    pictures: Sequence[Image.Image],
    rate: int = 25,
    codec: str = "libx264",
    key_every: int = 12,
    times_ms: Sequence[int] | None = None,
) -> Path:
    """Write a video file; with times_ms, of a variable frame rate."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height = pictures[0].size
        stream.pix_fmt = "yuv420p"
        stream.gop_size = key_every
        if times_ms is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number, image in enumerate(pictures):
            frame = av.VideoFrame.from_image(image)
            if times_ms is not None:
                frame.pts, frame.time_base = times_ms[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
