"""Parts of the photographs that things are laid on: nothing of the class table, to be called `object`.

Without them the language model only ever hears of things that were pasted, and names whatever a photograph has.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from tiny import looks
from tiny.looks import UNKNOWN
from tiny.texts import Truth

_TRIES = 3
_LEAST, _MOST = 0.006, 0.3  # share of the picture


def part(
    rng: Generator, picture: NDArray[np.uint8], owner: NDArray[np.uint8]
) -> tuple[NDArray[np.bool_], Truth] | None:
    """An even part of the ground (`owner` 0, S×S) of an S×S×3 uint8 picture: its mask and what is true of it.

    None where a few tries find only specks or nearly the whole ground.
    """
    side = picture.shape[0]
    smooth = np.ascontiguousarray(cv2.GaussianBlur(picture, (0, 0), side / 120))
    rows, columns = np.nonzero(owner == 0)
    if not len(rows):
        return None
    for _ in range(_TRIES):
        pick = rng.integers(len(rows))
        far = int(rng.choice([4, 8, 14]))
        wall = np.pad((owner > 0).astype(np.uint8), 1)
        fixed = cv2.FLOODFILL_FIXED_RANGE if rng.random() < 0.5 else 0
        spread = 3 * far if fixed else far // 3 + 1
        cv2.floodFill(
            smooth,
            wall,
            (int(columns[pick]), int(rows[pick])),
            (0, 0, 0),
            (spread,) * 3,
            (spread,) * 3,
            8 | cv2.FLOODFILL_MASK_ONLY | fixed | (2 << 8),
        )
        disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
        found = cv2.morphologyEx((wall[1:-1, 1:-1] == 2).astype(np.uint8), cv2.MORPH_CLOSE, disk)
        mask = (cv2.morphologyEx(found, cv2.MORPH_OPEN, disk) > 0) & (owner == 0)
        if _LEAST <= mask.mean() <= _MOST:
            colour = looks.colour_of(picture[mask])
            return mask, Truth(UNKNOWN, colour, looks.place_of(mask), looks.size_of(mask))
    return None
