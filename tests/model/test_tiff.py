"""TIFF as microscopes, scanners and aerial cameras write it; the files are made by tifffile."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from model import PictureError, PictureTooLargeError, open_picture

COLOUR = np.asarray(
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 12, 3), dtype=np.uint8)).resize((300, 225))
)
DEEP = COLOUR[..., 0].astype(np.uint16) * 100 + 500
TILE: dict[str, Any] = {"tile": (64, 64)}


def tiff(values: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, values, **({"photometric": "rgb" if values.ndim > 2 else "minisblack"} | options))
    return file.getvalue()


def pyramid(steps: tuple[int, ...], subifds: bool = False) -> bytes:
    """Levels with each so many times smaller than the picture, in this order."""
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for number, step in enumerate(steps):
            levels: dict[str, Any] = {"subifds": len(steps) - 1} if subifds and number == 0 else {}
            writer.write(COLOUR[::step, ::step], photometric="rgb", subfiletype=int(step > 1), **TILE, **levels)
    return file.getvalue()


AS_IT_IS: dict[str, Callable[[], bytes]] = {
    "tiled": lambda: tiff(COLOUR, **TILE),
    "tiled, deflate": lambda: tiff(COLOUR, compression="zlib", **TILE),
    "a plane for each colour": lambda: tiff(np.moveaxis(COLOUR, 2, 0).copy(), planarconfig="separate", **TILE),
    "BigTIFF": lambda: tiff(COLOUR, bigtiff=True, **TILE),
    "16 bits of each colour": lambda: tiff(COLOUR.astype(np.uint16) * 257, **TILE),
    "pyramid in pages": lambda: pyramid((1, 2, 4)),
    "pyramid in sub-files": lambda: pyramid((1, 2, 4), subifds=True),
    "a preview comes first": lambda: pyramid((4, 2, 1)),
    "several pages": lambda: tiff(np.stack([COLOUR, 255 - COLOUR])),
}


@pytest.mark.parametrize("kind", AS_IT_IS)
def test_the_whole_picture_is_read(kind: str) -> None:
    image = open_picture(AS_IT_IS[kind]())
    assert image.mode == "RGB" and image.size == (300, 225)
    assert np.abs(np.asarray(image).astype(int) - COLOUR).max() <= 1


@pytest.mark.parametrize(
    "options", [TILE, {"byteorder": ">", **TILE}, {"compression": "zlib"}, {"photometric": "miniswhite"}]
)
@pytest.mark.parametrize("kind", [np.uint16, np.float32])
def test_one_channel_is_stretched(options: dict[str, Any], kind: type) -> None:
    image = np.asarray(open_picture(tiff(DEEP.astype(kind), **options)))[..., 0]
    low, high = np.percentile(DEEP, (0.5, 99.5))
    expected = np.clip((DEEP - low) / (high - low) * 255, 0, 255)
    if options.get("photometric") == "miniswhite":
        expected = 255 - expected
    assert np.abs(image - expected).max() <= 1


def test_limits_are_those_of_the_page_that_is_read() -> None:
    with pytest.raises(PictureTooLargeError, match="300×225"):
        open_picture(pyramid((4, 2, 1)), max_pixels=60_000)


@pytest.mark.parametrize(
    "values", [DEEP.astype(np.float64), np.repeat(DEEP[..., None], 7, axis=2)], ids=["64 bits", "seven channels"]
)
def test_what_cannot_be_read_says_what_to_do(values: np.ndarray) -> None:
    with pytest.raises(PictureError, match="save it with one channel"):
        open_picture(tiff(values, photometric="minisblack", **({"planarconfig": "contig"} if values.ndim == 3 else {})))
