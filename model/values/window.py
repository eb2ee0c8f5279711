"""A part of a picture that is looked at by itself: a crop around a thing, or a tile of those that cover the picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from model.values.mask import Box
from model.values.prompt import Prompt

LARGE_SIDE = 2048
"""A picture whose longer side has more pixels is large: things that are small in it are looked at by themselves."""


@dataclass(frozen=True)
class Window:
    """A rectangle of whole pixels that lies within its picture; `right` and `bottom` are exclusive."""

    left: int
    top: int
    width: int
    height: int

    @property
    def right(self) -> int:
        return self.left + self.width

    @property
    def bottom(self) -> int:
        return self.top + self.height

    def of(self, image: Image.Image) -> Image.Image:
        """The pixels in it."""
        return image.crop((self.left, self.top, self.right, self.bottom))

    def holds(self, box: Box) -> bool:
        """Whether a box (x1, y1, x2, y2) of the picture lies in it."""
        x1, y1, x2, y2 = box
        return self.left <= x1 and self.top <= y1 and x2 <= self.right and y2 <= self.bottom

    def moved(self, prompt: Prompt) -> Prompt | None:
        """A prompt of the picture as one of the window: what lies outside is left out; None where nothing is left."""
        points = [
            (x - self.left, y - self.top, label)
            for x, y, label in prompt.points or ()
            if self.left <= x <= self.right and self.top <= y <= self.bottom
        ]
        box = None
        if prompt.box is not None:
            x1, y1, x2, y2 = prompt.box
            box = (
                *(max(x1 - self.left, 0.0), max(y1 - self.top, 0.0)),
                *(min(x2 - self.left, float(self.width)), min(y2 - self.top, float(self.height))),
            )
        mask = None if prompt.mask is None else prompt.mask[self.top : self.bottom, self.left : self.right]
        if (box is not None and not (box[0] < box[2] and box[1] < box[3])) or (mask is not None and not mask.any()):
            return None
        if box is None and mask is None and not any(label for *_, label in points):
            return None
        return Prompt(points=points or None, box=box, mask=mask)

    def pasted(self, mask: np.ndarray, width: int, height: int) -> np.ndarray:
        """A boolean mask of the window as one of the picture, (height, width), with nothing around it."""
        whole = np.zeros((height, width), bool)
        whole[self.top : self.bottom, self.left : self.right] = mask
        return whole

    def placed(self, box: Box) -> Box:
        """A box of the window, pixels, as one of the picture."""
        return box[0] + self.left, box[1] + self.top, box[2] + self.left, box[3] + self.top

    def cuts(self, mask: np.ndarray, width: int, height: int) -> bool:
        """Whether a boolean mask of the window, at any size, reaches an edge behind which the picture goes on."""
        return bool(
            (self.left > 0 and mask[:, 0].any())
            or (self.top > 0 and mask[0].any())
            or (self.right < width and mask[:, -1].any())
            or (self.bottom < height and mask[-1].any())
        )
