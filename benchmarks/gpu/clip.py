"""A clip that is drawn when it is asked for: no file, no decoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from model import Video

_PIXELS_PER_FRAME = 4


class RollingClip(Video):
    """One picture that slides sideways, four pixels a frame, 25 frames a second."""

    def __init__(self, picture: Image.Image, frames: int) -> None:
        self._pixels = np.asarray(picture)
        self.width, self.height = picture.size
        self.timestamps_s = np.arange(frames) / 25
        self.duration_s = frames / 25

    def _read(self, numbers: Sequence[int]) -> Iterator[tuple[int, Image.Image]]:
        for number in numbers:
            yield number, Image.fromarray(np.roll(self._pixels, _PIXELS_PER_FRAME * number, axis=1))
