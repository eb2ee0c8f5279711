"""What the base does on pictures that are not a project's: repeated while a version is learned, so that it stays so."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from model.pam import PerceiveAnything
from model.tuning.lessons import Example
from model.tuning.shelf import Shelf
from model.values.mask import to_coco_rle
from model.values.prompt import Prompt

_EACH = 12
"""Regions of a picture."""


def regions(pam: PerceiveAnything, pictures: Sequence[str], shelf: Shelf) -> list[Example]:
    """The base's masks in boxes of all sizes, the same ones each time; those that are not empty."""
    found = []
    for number, picture in enumerate(pictures):
        embedding = shelf.embedding(picture)
        rng = np.random.default_rng([number, 3])
        size = np.array([embedding.width, embedding.height])
        sides = rng.uniform(0.1, 0.6, (_EACH, 2)) * size
        corners = rng.uniform(0, 1, (_EACH, 2)) * (size - sides)
        ends = corners + sides
        boxes = [(float(x), float(y), float(x2), float(y2)) for (x, y), (x2, y2) in zip(corners, ends, strict=True)]
        for box, region in zip(boxes, pam.segment(embedding, [Prompt(box=box) for box in boxes]), strict=True):
            if region.area:
                found.append(Example(picture, picture, box, to_coco_rle(region.mask)))
    return found
