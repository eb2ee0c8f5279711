from __future__ import annotations

import numpy as np
import pytest
from label_studio_sdk.converter import brush

from backend import rle

ROWS, COLUMNS = np.mgrid[:300, :500]
MASKS = {
    "empty": np.zeros((20, 30), bool),
    "full": np.ones((20, 30), bool),
    "full and large": np.ones((300, 500), bool),  # runs longer than 16 bits can say
    "one pixel": np.eye(1, 600, 123, dtype=bool).reshape(20, 30),
    "disc": (ROWS - 150) ** 2 + (COLUMNS - 200) ** 2 < 90**2,
    "stripes": COLUMNS % 7 < 3,
    "checks": (ROWS + COLUMNS) % 2 == 0,
    "long runs": ROWS > 170,
}


@pytest.mark.parametrize("name", MASKS)
def test_it_is_the_sdks_encoding_byte_for_byte(name: str) -> None:
    mask = MASKS[name]
    assert rle.encode(mask) == brush.mask2rle(mask.astype(np.uint8) * 255)


@pytest.mark.parametrize("seed", range(20))
def test_random_masks_come_back(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 120, 2))
    mask = rng.random(shape) < rng.random()
    found = rle.encode(mask)
    assert found == brush.mask2rle(mask.astype(np.uint8) * 255)
    back = np.asarray(brush.decode_rle(found)).reshape(*shape, 4)
    assert (back[:, :, 3] == 255 * mask).all()
