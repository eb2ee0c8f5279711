from __future__ import annotations

import numpy as np
import pytest
from label_studio_sdk.converter import brush

from backend.label_studio import rle
from model.values.mask import row_runs, to_coco_rle, to_rle

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
    assert (rle.decode(bytes(found), mask.size) == mask.ravel()).all()
    for pixel in {0, mask.size - 1, *rng.integers(0, mask.size, 20)}:
        assert rle.at(bytes(found), mask.size, int(pixel)) == mask.ravel()[pixel]


@pytest.mark.parametrize("name", MASKS)
def test_runs_are_read_without_the_pixels(name: str) -> None:
    mask = MASKS[name]
    for known in (to_rle(mask), to_coco_rle(mask)):
        runs = row_runs(known)
        assert (np.repeat(np.arange(len(runs)) % 2 == 1, runs) == mask.ravel()).all()
    assert rle.encode_runs(row_runs(to_coco_rle(mask))) == rle.encode(mask)


@pytest.mark.parametrize("seed", range(20))
def test_what_label_studio_itself_encodes_is_read_as_the_sdk_reads_it(seed: int) -> None:
    """Its editor and its converter differ: both also write values one by one, and other channels and sizes."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 12 if seed % 2 else 60, 2)  # its encoder takes seconds for many
    pixels = rng.integers(0, 256, (height, width, 4)).astype(np.uint8)
    if seed % 2:
        pixels = np.repeat(np.repeat(pixels, 7, 0), 9, 1)
    found = brush.encode_rle(pixels.ravel())
    size = pixels.shape[0] * pixels.shape[1]
    assert (rle.decode(bytes(found), size) == (pixels[:, :, 3] > 127).ravel()).all()


def test_values_one_by_one_are_read_too() -> None:
    values = (0, 0, 0, 255, 9, 9, 9, 0)
    bits = f"{8:032b}{7:05b}" + 4 * f"{2:04b}" + "0" + "00" + "111" + "".join(f"{value:08b}" for value in values)
    data = int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")
    assert rle.decode(data, 2).tolist() == [True, False]
    assert np.asarray(brush.decode_rle(list(data))).tolist() == list(values)


@pytest.mark.parametrize("cut", [0, 1, 4, 6, 7, 20])
def test_damaged_ones_are_refused(cut: int) -> None:
    data = bytes(rle.encode(MASKS["disc"]))
    with pytest.raises(ValueError, match="truncated"):
        rle.decode(data[:cut], 150_000)
    with pytest.raises(ValueError, match="truncated"):
        rle.at(data[:cut], 150_000, 149_999)
    with pytest.raises(ValueError, match="another picture"):
        rle.decode(data, 149_999)
