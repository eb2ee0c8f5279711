"""Whatever the file is like, the mask has the size and the place that the browser shows."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from tests.http.stack import Stack, data_url, point
from tests.http.test_protocol import mask_of

ROWS, COLUMNS = np.mgrid[:120, :200]
GREY = Image.fromarray((127 + 100 * np.sin(COLUMNS / 23) * np.cos(ROWS / 17)).astype(np.uint8))
OTHER = Image.new("L", GREY.size, 200)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def turned() -> bytes:
    """Stored on its side, with the EXIF orientation that says how to turn it upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(GREY.convert("RGB").transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif)


FILES: dict[str, Callable[[], bytes]] = {
    "EXIF orientation": turned,
    "grey PNG": lambda: saved(GREY, "PNG"),
    "transparent PNG": lambda: saved(Image.merge("LA", (GREY, Image.new("L", GREY.size, 255))), "PNG"),
    "16-bit PNG": lambda: saved(Image.fromarray(np.asarray(GREY).astype(np.uint16) * 257), "PNG"),
    "palette GIF, animated": lambda: saved(GREY, "GIF", save_all=True, append_images=[OTHER], duration=100),
    "WebP, animated": lambda: saved(
        GREY.convert("RGB"), "WEBP", save_all=True, append_images=[OTHER.convert("RGB")], lossless=True
    ),
    "TIFF": lambda: saved(GREY, "TIFF"),
    "BMP": lambda: saved(GREY, "BMP"),
    "CMYK": lambda: saved(GREY.convert("RGB").convert("CMYK"), "JPEG", quality=95),
}


def answer(stack: Stack, data: bytes) -> np.ndarray:
    reply = stack.predict(data_url(data), [point(30, 60)])
    assert reply.status_code == 200, reply.text
    item = reply.json()["results"][0]["result"][0]
    assert (item["original_width"], item["original_height"]) == GREY.size
    return mask_of(item)


def stretched() -> Image.Image:
    """What one channel of sixteen bits is taken for: from the 0.5th to the 99.5th percentile."""
    low, high = np.percentile(np.asarray(GREY), (0.5, 99.5))
    return Image.fromarray(np.rint((np.asarray(GREY) - low) / (high - low) * 255).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("name", FILES)
def test_the_mask_is_where_it_would_be_in_a_plain_picture(stack: Stack, name: str) -> None:
    plain = answer(stack, saved((stretched() if name == "16-bit PNG" else GREY).convert("RGB"), "PNG"))
    found = answer(stack, FILES[name]())
    assert plain.any()
    # CMYK loses a little
    least = 0.95 if name == "CMYK" else 0.999
    assert (plain & found).sum() / (plain | found).sum() > least
