"""Masks as run-length encodings: a pixel is looked up without decoding."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco

from model.values.mask import from_rle, rle_at, to_coco_rle, to_rle


@pytest.mark.parametrize("seed", range(10))
def test_a_pixel_of_an_encoded_mask(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(1, 40, 2))
    mask = rng.random((height, width)) < rng.choice([0.0, 0.5, 1.0])
    for encoded in (to_rle(mask), to_coco_rle(mask)):
        found = [[rle_at(encoded, row, column) for column in range(width)] for row in range(height)]
        assert np.array_equal(found, mask)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.98, 1.0])
def test_encodings_are_those_of_cocos_own_tools(share: float) -> None:
    rng = np.random.default_rng(int(100 * share))
    for _ in range(20):
        mask = rng.random(rng.integers(1, 40, 2)) < share
        theirs = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
        assert to_coco_rle(mask) == {"size": list(mask.shape), "counts": theirs["counts"].decode("ascii")}
        assert np.array_equal(from_rle(to_coco_rle(mask)), mask)
