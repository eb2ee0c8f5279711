"""A video with its regions and captions drawn on every frame, for people to look at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from model.errors import VideoError
from model.overlay import draw_regions
from model.values.mask import from_rle
from model.video.source import Video

Masks = Mapping[int, Mapping[int, dict[str, Any]]]
"""COCO RLEs by frame and object; a frame that is not there was not tracked."""


def drawn(video: Video, masks: Masks, captions: Mapping[int, str]) -> Iterator[tuple[int, Image.Image]]:
    """The tracked frames, each with its masks in the objects' colours, and the captions below."""
    names = sorted(captions)
    for number, picture in video.read(sorted(masks)):
        empty = np.zeros((picture.height, picture.width), bool)
        found = [from_rle(masks[number][name]) if name in masks[number] else empty for name in names]
        yield number, draw_regions(picture, found, [], [captions[name] for name in names])


def write_video(path: Path, video: Video, frames: Iterator[tuple[int, Image.Image]]) -> None:
    """Write frames of a video as H.264 in MP4, shown at the times that they have in the video.

    Raises:
        VideoError: the file's name does not end in .mp4.
    """
    if path.suffix.lower() != ".mp4":
        raise VideoError(f"{path.name} does not end in .mp4: overlays of videos are written as MP4")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=max(1, round(video.frame_rate)))
        assert isinstance(stream, av.VideoStream)
        stream.codec_context.time_base = Fraction(1, 1000)
        stream.pix_fmt = "yuv420p"
        for number, picture in frames:
            # H.264 takes even sizes only
            even = picture.crop((0, 0, picture.width // 2 * 2, picture.height // 2 * 2))
            if not stream.codec_context.is_open:
                stream.width, stream.height = even.size
            frame = av.VideoFrame.from_image(even)
            frame.pts, frame.time_base = round(1000 * float(video.timestamps_s[number])), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def filmstrip(frames: Sequence[Image.Image], columns: int = 4, width: int = 320) -> Image.Image:
    """Frames side by side, in rows, in one picture."""
    height = round(width * frames[0].height / frames[0].width)
    rows = -(-len(frames) // columns)
    strip = Image.new("RGB", (min(columns, len(frames)) * width, rows * height), "white")
    for i, frame in enumerate(frames):
        strip.paste(frame.resize((width, height)), (i % columns * width, i // columns * height))
    return strip
