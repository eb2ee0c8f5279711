from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model import PictureError, PictureTooLargeError, open_picture
from model.values.image import as_rgb, to_input


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def rgb(image: Image.Image, x: int, y: int) -> tuple[int, ...]:
    value = image.getpixel((x, y))
    assert isinstance(value, tuple)
    return value


def half_red_half_blue(mode: str = "RGB") -> Image.Image:
    image = Image.new("RGB", (8, 4), "blue")
    image.paste("red", (0, 0, 4, 4))
    return image.convert(mode)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_formats(kind: str) -> None:
    image = open_picture(encoded(half_red_half_blue(), kind))
    assert (image.mode, image.size) == ("RGB", (8, 4))
    red, blue = rgb(image, 0, 0), rgb(image, 7, 0)
    assert min(red[0], blue[2]) > 200 and max(red[2], blue[0]) < 60


@pytest.mark.parametrize("mode", ["RGBA", "P", "CMYK"])
def test_modes(mode: str) -> None:
    kind = "TIFF" if mode == "CMYK" else "PNG"
    image = open_picture(encoded(half_red_half_blue(mode), kind))
    assert image.mode == "RGB" and rgb(image, 0, 0)[0] > 200


def test_sixteen_bits_are_scaled_not_cut() -> None:
    ramp = np.linspace(0, 65535, 256, dtype=np.uint16)[None].repeat(2, axis=0)
    image = open_picture(encoded(Image.fromarray(ramp), "PNG"))
    assert [rgb(image, x, 0)[0] for x in (0, 128, 255)] == [0, 128, 255]


@pytest.mark.parametrize("order", ["<u2", ">u2", "<i4", "<f4"])
def test_pictures_that_use_a_part_of_their_range_are_not_black(order: str) -> None:
    """Twelve bits in sixteen, degrees in floating point: from the 0.5th to the 99.5th percentile."""
    values = np.tile(np.arange(1000, dtype=np.float64) * 4 + 20, (40, 1))
    values[0, :3] = 30_000  # a few pixels that are stuck do not darken all others
    image = open_picture(encoded(Image.fromarray(values.astype(order)), "TIFF"))
    row = np.asarray(image, int)[20, :, 0]
    assert row[0] == 0 and row[-1] == 255 and row[500] == pytest.approx(128, abs=2) and (np.diff(row) >= 0).all()
    assert rgb(image, 0, 0) == (255, 255, 255)


def test_what_is_no_number_is_black_and_a_few_bright_spots_are_seen() -> None:
    values = np.zeros((200, 200), np.float32)
    values[0, 0], values[1, 1], values[2, 2] = np.nan, np.inf, 7.0
    image = open_picture(encoded(Image.fromarray(values), "TIFF"))
    assert [rgb(image, x, x)[0] for x in (0, 1, 2, 3)] == [0, 255, 255, 0]


def test_of_a_tiff_with_several_pages_the_first_is_read() -> None:
    pages = [half_red_half_blue().resize(size) for size in ((80, 40), (40, 20), (20, 10))]
    image = open_picture(encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:]))
    assert image.size == (80, 40), "of a pyramid the picture itself"


def test_transparency_lies_on_white() -> None:
    image = open_picture(encoded(Image.new("RGBA", (2, 2), (255, 0, 0, 0)), "PNG"))
    assert rgb(image, 0, 0) == (255, 255, 255)


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise by 90°
    image = open_picture(encoded(half_red_half_blue(), "JPEG", exif=exif, quality=95))
    assert image.size == (4, 8)
    assert rgb(image, 0, 0)[0] > 200 and rgb(image, 0, 7)[2] > 200


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "0 bytes"),
        (b"hello, I am text", "not a picture"),
        (b"%PDF-1.7", "not a picture"),
        (encoded(half_red_half_blue().resize((200, 200)), "PNG")[:120], "truncated"),
        (encoded(half_red_half_blue().resize((200, 200)), "JPEG")[:400], "truncated"),
    ],
)
def test_broken_files(data: bytes, says: str) -> None:
    with pytest.raises(PictureError, match=says):
        open_picture(data)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 1000))


def test_fifty_thousand_squared_is_refused_before_decoding() -> None:
    with pytest.raises(PictureTooLargeError, match="too large"):
        open_picture(png_header(50_000, 50_000))
    with pytest.raises(PictureTooLargeError, match="11000×10000"):
        open_picture(png_header(11_000, 10_000))


def test_the_limit_is_a_setting() -> None:
    with pytest.raises(PictureTooLargeError, match="the limit is 31"):
        open_picture(encoded(half_red_half_blue(), "PNG"), max_pixels=31)


def test_a_missing_file_stays_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_picture(tmp_path / "nothing.png")


@pytest.mark.parametrize(
    "array",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)],
)
def test_other_arrays_are_refused(array: np.ndarray) -> None:
    with pytest.raises(PictureError):
        as_rgb(array)


def test_input_tensor_is_normalised() -> None:
    tensor = to_input(Image.new("RGB", (30, 20), (124, 116, 104)), 64)  # ImageNet's mean colour
    assert tuple(tensor.shape) == (3, 64, 64)
    assert float(tensor.abs().max()) < 0.02


def test_what_is_upright_rgb_already_is_not_copied() -> None:
    """Of twelve megapixels each copy takes longer than encoding them."""
    opened = open_picture(encoded(half_red_half_blue(), "JPEG"))
    assert as_rgb(opened) is opened and type(opened) is Image.Image
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = open_picture(encoded(half_red_half_blue(), "JPEG", exif=exif))
    assert turned.size == (4, 8) and as_rgb(turned) is turned
