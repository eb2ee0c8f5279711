"""Places of a picture that lie apart from its regions: what is there shows what a label is not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from backend.job import RegionPrompt

_PLACES = 2
_TRIES = 40
_APART = 3.0  # per cent of the picture


def places_beside(regions: Sequence[RegionPrompt], seed: Sequence[int]) -> list[tuple[float, float]]:
    """A few places (x, y) in percentages of the picture, always the same ones of a seed; none where nothing says what
    the regions cover.
    """
    if any(prompt.drawing is not None for prompt in regions):
        return []
    rng = np.random.default_rng(list(seed))
    places = [(float(x), float(y)) for x, y in rng.uniform(5, 95, (_TRIES, 2))]
    boxes = [box for prompt in regions if (box := _box(prompt)) is not None]
    return [(x, y) for x, y in places if not any(_inside(box, x, y) for box in boxes)][:_PLACES]


def _box(prompt: RegionPrompt) -> tuple[float, float, float, float] | None:
    """Around a region, in percentages of the picture."""
    from model.values.mask import from_rle, mask_box

    if prompt.mask is None:
        return prompt.box
    height, width = prompt.mask["size"]
    box = mask_box(from_rle(prompt.mask))
    return (
        None
        if box is None
        else (100 * box[0] / width, 100 * box[1] / height, 100 * box[2] / width, 100 * box[3] / height)
    )


def _inside(box: tuple[float, float, float, float], x: float, y: float) -> bool:
    # a click in a ring's hole or just beside a thing is often taken for the thing
    return box[0] - _APART <= x <= box[2] + _APART and box[1] - _APART <= y <= box[3] + _APART
