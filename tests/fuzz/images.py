"""Hostile pictures, made here and not stored: damaged, lying, of other formats, too large for what they are."""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

PNG = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, pixels: bytes, depth: int = 8, colour: int = 2, *more: bytes) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return PNG + head + b"".join(more) + chunk(b"IDAT", zlib.compress(pixels, 9)) + chunk(b"IEND", b"")


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def _photo(mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(7)
    return Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)).convert(mode)


def refused() -> Iterator[tuple[str, bytes]]:
    """Pictures that must be refused: (name, bytes)."""
    yield "nothing", b""
    yield "text", b"I am a picture, believe me"
    yield "html", b"<!doctype html><script>alert(1)</script>"
    yield "svg with an entity", b'<!DOCTYPE s [<!ENTITY a SYSTEM "file:///etc/passwd">]><svg>&a;</svg>'
    yield "postscript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(/etc/passwd) (r) file\n"
    yield "pdf", b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>"
    yield "gzip", gzip.compress(b"\0" * 1_000_000)
    yield "zip", b"PK\x03\x04" + b"\0" * 60
    yield "elf", b"\x7fELF" + b"\0" * 60
    yield "pickle", b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94."
    for kind in ("ICO", "PPM", "TGA", "PCX", "SGI", "ICNS", "DDS", "JPEG2000"):
        # formats that Pillow can read and that are not on our list
        try:
            yield f"{kind}, not on the list", saved(_photo(), kind)
        except (KeyError, OSError):
            continue
    yield "png bomb", png(60_000, 60_000, b"\0" * 1000)
    yield "png that is honestly 400 megapixels", png(20_000, 20_000, b"\0" * (2501 * 20_000), 1, 0)
    yield "png of zero width", png(0, 10, b"")
    yield "png of 2^31 pixels a side", png(2**31 - 1, 2**31 - 1, b"")
    yield "png without pixels", PNG + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)) + chunk(b"IEND", b"")
    yield "png with a short IHDR", PNG + chunk(b"IHDR", b"\0\0\0\1") + chunk(b"IEND", b"")
    yield "png of an unknown colour type", png(8, 8, b"\0" * 200, 8, 5)
    yield "png with too few pixels", png(64, 64, b"\0" * 100)
    yield "png whose chunk says 2^31 bytes", PNG + struct.pack(">I", 2**31 - 1) + b"IHDR" + b"\0" * 20
    yield (
        "png with a text bomb",
        png(1, 1, b"\0\0\0\0", 8, 2, chunk(b"zTXt", b"a\0\0" + zlib.compress(b"\0" * 90_000_000))),
    )
    yield "gif of zero size", b"GIF89a\0\0\0\0\0\0\0;"
    yield "gif of 65535 a side", b"GIF89a\xff\xff\xff\xff\x00\x00\x00,\0\0\0\0\xff\xff\xff\xff\0\x08\x01\0\0;"
    yield (
        "bmp of negative width",
        _bmp(-8, 8),
    )
    yield (
        "bmp of 2^31 a side",
        _bmp(2**31 - 1, 2**31 - 1),
    )
    yield "tiff whose directory points to itself", b"II*\0\x08\0\0\0\0\0\x08\0\0\0"
    yield "tiff with 65535 tags", b"II*\0\x08\0\0\0\xff\xff" + b"\xff" * 500
    yield "webp of nothing", b"RIFF\x10\0\0\0WEBPVP8 \0\0\0\0"
    yield "webp that says it is 16383 a side", b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\x10\0\0\0\xfe\x3f\0\xfe\x3f\0"
    yield "jpeg of 65500 a side", _jpeg_with_size(65_500, 65_500)
    yield "jpeg without its end", saved(_photo(), "JPEG")[:600]
    for kind in ("PNG", "GIF", "BMP", "TIFF", "WEBP"):
        data = saved(_photo(), kind)
        yield f"half a {kind}", data[: len(data) // 2]


def accepted() -> Iterator[tuple[str, bytes]]:
    """Odd pictures that are fine."""
    for mode, kind in (("L", "PNG"), ("1", "PNG"), ("P", "GIF"), ("RGBA", "PNG"), ("LA", "PNG"), ("I;16", "PNG")):
        yield (
            f"{kind} {mode}",
            saved(_photo("L").convert("I").convert("I;16") if mode == "I;16" else _photo(mode), kind),
        )
    yield "JPEG CMYK", saved(_photo("CMYK"), "JPEG")
    yield "JPEG progressive", saved(_photo(), "JPEG", progressive=True)
    yield "one pixel", saved(Image.new("RGB", (1, 1)), "PNG")
    yield "one pixel high", saved(Image.new("RGB", (3000, 1)), "PNG")
    exif = Image.Exif()
    for turn in (0, 6, 9, 65_535):
        exif[0x0112] = turn
        yield f"EXIF orientation {turn}", saved(_photo(), "JPEG", exif=exif.tobytes())
    yield "broken EXIF", saved(_photo(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    yield "broken colour profile", saved(_photo(), "JPEG", icc_profile=b"\xff" * 400)
    frames = [Image.new("P", (20, 20), i) for i in range(300)]
    yield "300 frames", saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    yield "rubbish after the end", saved(_photo(), "PNG") + b"<script>" * 100


def _bmp(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<IHHIIiiHHIIIIII", 70, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)


def _jpeg_with_size(width: int, height: int) -> bytes:
    data = bytearray(saved(_photo(), "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


REFUSED = dict(refused())
ACCEPTED = dict(accepted())
"""Both by name, made once: some take a moment."""
