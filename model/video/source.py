"""What a video is, and one of pictures. Frames are decoded when they are asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from model.errors import VideoError, VideoTooLargeError
from model.values.image import MAX_PIXELS, as_rgb, open_picture

FOLDER_RATE = 25.0
"""Frames per second of pictures that come without times."""

_BACKWARD = 16
"""Frames that are decoded at once where a video is read backwards; they are held together."""

Picture = Image.Image | np.ndarray | str | Path


@dataclass(frozen=True)
class Limits:
    """What a video may measure at most.

    Attributes:
        max_frames: frames.
        max_seconds: its duration.
        max_bytes: its file.
        max_pixels: width × height of one frame.
    """

    max_frames: int = 1_000_000
    max_seconds: float = 24 * 3600.0
    max_bytes: int = 1 << 40
    max_pixels: int = MAX_PIXELS


ORDINARY = Limits()


class Video(ABC):
    """Frames with their times, numbered from 0.

    Attributes:
        width: of a frame as it is shown (rotation applied), pixels.
        height: of a frame as it is shown, pixels.
        timestamps_s: (N,) float64, when each frame is shown, seconds from the video's beginning as players count,
            increasing. The first one is shown at 0, except where a file's sound begins before its pictures.
        duration_s: until the end of the last frame, seconds; of a file with longer sound that of the sound.
        live: its frames are still coming: none is asked for before its turn.
    """

    live = False

    width: int
    height: int
    timestamps_s: np.ndarray
    duration_s: float

    @property
    def frame_count(self) -> int:
        return len(self.timestamps_s)

    @property
    def frame_rate(self) -> float:
        """Mean frames per second."""
        return self.frame_count / self.duration_s if self.duration_s > 0 else FOLDER_RATE

    def read(self, numbers: Sequence[int]) -> Iterator[tuple[int, Image.Image]]:
        """Decode frames, upright RGB, one at a time.

        Args:
            numbers: of frames, rising or falling.

        Yields:
            (number, picture) in the order asked for. A frame that is damaged in the file is left out.

        Raises:
            VideoError: a number outside the video, or no frame at all can be decoded.
        """
        numbers = list(numbers)
        for number in numbers[:1] + numbers[-1:]:
            if not 0 <= number < self.frame_count:
                raise VideoError(f"frame {number} of a video of {self.frame_count} frames: give 0 … the last")
        if len(numbers) > 1 and numbers[0] > numbers[-1]:
            for begin in range(0, len(numbers), _BACKWARD):
                yield from reversed(list(self._read(numbers[begin : begin + _BACKWARD][::-1])))
        else:
            yield from self._read(numbers)

    def frame(self, number: int) -> Image.Image:
        """One frame, upright RGB.

        Raises:
            VideoError: there is no such frame, or it cannot be decoded.
        """
        found = next(self.read([number]), None)
        if found is None:
            raise VideoError(f"frame {number} cannot be decoded: the file is damaged there, make it anew")
        return found[1]

    def nearest(self, time_s: float) -> int:
        """The frame that is on the screen at a time (that of the last frame for later times)."""
        # browsers round times to microseconds: a frame counts as begun a little before
        shown = np.searchsorted(self.timestamps_s, time_s + 1e-4, side="right") - 1
        return int(np.clip(shown, 0, self.frame_count - 1))

    def thinned(self, frame_rate: float) -> Video:
        """Fewer frames: about so many a second, the first one among them; itself where it has no more."""
        ticks = np.floor(self.timestamps_s * frame_rate + 1e-6)
        numbers = [0, *(1 + np.flatnonzero(np.diff(ticks) > 0)).tolist()]
        return self if len(numbers) == self.frame_count else Chosen(self, numbers)

    @abstractmethod
    def _read(self, numbers: Sequence[int]) -> Iterator[tuple[int, Image.Image]]:
        """As `read`, for rising numbers inside the video."""


class Chosen(Video):
    """Some frames of another video, numbered anew; they keep their times.

    Attributes:
        numbers: of the frames in the other video, rising.
    """

    def __init__(self, video: Video, numbers: Sequence[int]) -> None:
        self.video = video
        self.numbers = list(numbers)
        self.width, self.height, self.duration_s = video.width, video.height, video.duration_s
        self.timestamps_s = video.timestamps_s[self.numbers]

    def _read(self, numbers: Sequence[int]) -> Iterator[tuple[int, Image.Image]]:
        own = {self.numbers[number]: number for number in numbers}
        for number, picture in self.video.read([self.numbers[number] for number in numbers]):
            yield own[number], picture


class Pictures(Video):
    """A list of pictures (PIL, arrays (H, W, 3) uint8, or paths), all of one size.

    Args:
        pictures: at least one.
        frame_rate: per second.

    Raises:
        VideoError: there is none.
        PictureError: the first is no picture.
    """

    def __init__(self, pictures: Sequence[Picture], frame_rate: float = FOLDER_RATE) -> None:
        if not len(pictures):
            raise VideoError("a video without frames: give at least one picture")
        if not frame_rate > 0:
            raise VideoError(f"a frame rate of {frame_rate:g} a second: give a positive number")
        self._pictures = pictures
        first = _open(pictures[0])
        self.width, self.height = first.size
        self.timestamps_s = np.arange(len(pictures)) / frame_rate
        self.duration_s = len(pictures) / frame_rate

    def _read(self, numbers: Sequence[int]) -> Iterator[tuple[int, Image.Image]]:
        for number in numbers:
            picture = _open(self._pictures[number])
            if picture.size != (self.width, self.height):
                raise VideoError(
                    f"frame {number} has {picture.width}×{picture.height} pixels, the first has "
                    f"{self.width}×{self.height}: the frames of a video must be of one size"
                )
            yield number, picture


def _open(picture: Picture) -> Image.Image:
    return open_picture(picture) if isinstance(picture, str | Path) else as_rgb(picture)


def check(limits: Limits, frames: int = 0, seconds: float = 0.0, size: int = 0, pixels: int = 0) -> None:
    """Raise VideoTooLargeError for what is beyond a limit."""
    if size > limits.max_bytes:
        raise VideoTooLargeError(f"the video has {size:,} bytes, the limit is {limits.max_bytes:,}: make it smaller")
    if pixels > limits.max_pixels:
        raise VideoTooLargeError(
            f"a frame of the video has {pixels:,} pixels, the limit is {limits.max_pixels:,}: make it smaller"
        )
    if seconds > limits.max_seconds:
        raise VideoTooLargeError(
            f"the video is {seconds:,.0f} s long, the limit is {limits.max_seconds:,.0f} s: cut it into clips"
        )
    if frames > limits.max_frames:
        raise VideoTooLargeError(
            f"the video has more than {limits.max_frames:,} frames, which is the limit: cut it into clips"
        )
