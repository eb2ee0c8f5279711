"""Pictures: opening them safely, upright RGB pixels, and SAM 2's input tensor."""

from __future__ import annotations

import io
import math
import struct
import threading
import warnings
import zlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from model.errors import PictureError, PictureTooLargeError

if TYPE_CHECKING:
    import torch

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Decoders that may run: the formats that browsers and cameras give, no others."""

MAX_PIXELS = 100_000_000
"""The default limit on width × height; a decoded RGB picture of that size takes 300 MB."""

# what Pillow's decoders raise on damaged files; not Exception, which would swallow a caller's time limit
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    LookupError,
    TypeError,
    ArithmeticError,
    AttributeError,
    EOFError,
    NotImplementedError,
    struct.error,
    zlib.error,
)

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_SUBFILE_TYPE, _REDUCED = 254, 1  # TIFF's tag, and its bit for a smaller version of another page
_PHOTOMETRIC, _WHITE_IS_0 = 262, 0
_MOST_PAGES = 100  # that are looked at for one that is not reduced

_PERCENTILES = (0.5, 99.5)
_SAMPLED = 1_000_000  # pixels, about, that they are taken from
_ROWS = 1024
_ORIENTATION = 0x0112  # EXIF's tag
_OPENING = threading.Lock()

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


def open_picture(source: str | Path | bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode a picture to upright RGB.

    Args:
        source: a path, or the encoded bytes.
        max_pixels: the largest width × height that is decoded; the header is checked before any pixel. Pillow itself
            refuses more than 178,956,970.

    Raises:
        PictureTooLargeError: more pixels than max_pixels.
        PictureError: not a picture of one of FORMATS, truncated or damaged.
    """
    if isinstance(source, bytes) and not source:
        raise PictureError("the picture has 0 bytes: upload it again")
    try:
        with _header(source) as image:
            _to_full_page(image)
            width, height = image.size
            if width * height > max_pixels:
                raise PictureTooLargeError(
                    f"the picture has {width}×{height} pixels, the limit is {max_pixels:,}: make it smaller"
                )
            return to_rgb(image)
    except (PictureError, FileNotFoundError, IsADirectoryError):
        raise
    except Image.DecompressionBombError as error:
        raise PictureTooLargeError(f"the picture is too large: {error}") from None
    except UnidentifiedImageError:
        raise PictureError(_unknown(source)) from None
    except _DAMAGE as error:
        raise PictureError(f"the picture is truncated or damaged ({error}): upload it again") from None


def _header(source: str | Path | bytes) -> Image.Image:
    """The picture, none of its pixels decoded."""
    # what is ignored is the whole process's, and several threads open pictures
    with _OPENING, warnings.catch_warnings():
        # the limit is ours (max_pixels); Pillow's own warning would only say it twice
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS)


def _to_full_page(image: Image.Image) -> None:
    """Of a TIFF whose first page is a smaller version of another one, go to the first that is not."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        while image.tag_v2.get(_SUBFILE_TYPE, 0) & _REDUCED and image.tell() < _MOST_PAGES:
            try:
                image.seek(image.tell() + 1)
            except EOFError:
                image.seek(0)
                return


def _unknown(source: str | Path | bytes) -> str:
    if isinstance(source, bytes):
        begin = source[:4]
    else:
        with Path(source).open("rb") as file:
            begin = file.read(4)
    if begin in _TIFF:
        return (
            "the file is a TIFF of a kind that cannot be read (more than four channels, 64-bit numbers, JPEG 2000, or "
            "damaged): save it with one channel of up to 32 bits, or as RGB"
        )
    return f"the file is not a picture of a known format ({', '.join(FORMATS)})"


def to_rgb(image: Image.Image) -> Image.Image:
    """Upright 8-bit RGB as a browser shows it: EXIF orientation applied, alpha over white.

    One channel of more than 8 bits (16 or 32, or floating point: microscopes, thermal and depth cameras) is stretched
    from its 0.5th to its 99.5th percentile, since such pictures seldom use the whole range; what lies outside is black
    or white.
    """
    # of eight bits Pillow itself turns pictures round in which 0 is white
    inverted = getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_0
    if image.getexif().get(_ORIENTATION, 1) != 1:  # it would copy the others too
        image = ImageOps.exif_transpose(image)
    if image.mode in ("I;16", "I;16B", "I;16L", "I", "F"):
        pixels = _stretched(np.asarray(image))
        image = Image.fromarray(255 - pixels if inverted else pixels)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(ground, image).convert("RGB")
    # what has no file behind it is not copied
    return image if image.mode == "RGB" and type(image) is Image.Image else image.convert("RGB")


def _stretched(values: np.ndarray) -> np.ndarray:
    """(H, W) of any number → uint8; a picture of one value becomes that of its share of 16 bits."""
    step = max(1, math.isqrt(values.size // _SAMPLED))
    sample = values[::step, ::step].astype(np.float64)
    sample = sample[np.isfinite(sample)]
    low, high = np.percentile(sample, _PERCENTILES) if sample.size else (0.0, 0.0)
    if not high > low and sample.size:
        # nearly all of it is one value
        low, high = float(sample.min()), float(sample.max())
    if not high > low:
        low, high = 0.0, 65535.0
    pixels = np.empty(values.shape, np.uint8)
    for first in range(0, len(values), _ROWS):
        # some rows at a time: a hundred million pixels would else take a gigabyte
        rows = values[first : first + _ROWS].astype(np.float32)
        scaled = (rows - np.float32(low)) * np.float32(255.0 / (high - low))
        pixels[first : first + _ROWS] = np.nan_to_num(scaled, posinf=255.0, neginf=0.0).round().clip(0, 255)
    return pixels


def as_rgb(image: Image.Image | np.ndarray) -> Image.Image:
    """A PIL picture, or an array (H, W, 3) uint8 that is taken as it is, as upright RGB.

    Raises:
        PictureError: for any other shape or dtype, or a picture without pixels.
    """
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise PictureError(f"an array of shape {image.shape} and dtype {image.dtype}: give (H, W, 3) uint8 RGB")
        if not image.size:
            raise PictureError(f"a picture without pixels, shape {image.shape}")
        return Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise PictureError(f"{type(image).__name__} is not a picture: give a PIL image or an array (H, W, 3) uint8")
    if not image.width or not image.height:
        raise PictureError(f"a picture without pixels, {image.width}×{image.height}")
    return to_rgb(image)


def to_square(image: Image.Image, size: int) -> np.ndarray:
    """The pixels of SAM 2's input as PAM makes it: (size, size, 3) uint8, bicubic, aspect not kept.

    Pillow's antialiased bicubic on uint8 is part of the contract: torchvision's resize gives other features.
    """
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    """SAM 2's input of such pixels: (B, S, S, 3) uint8 to (B, 3, S, S) float32 by ImageNet's mean and deviation.

    The same numbers to the last bit on every device.
    """
    import torch

    most, mean, deviation = _scale(pixels.device)
    channels = pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    return channels.div_(most).sub_(mean).div_(deviation)


@cache
def _scale(device: torch.device) -> tuple[torch.Tensor, ...]:
    """Tensors, not numbers: CUDA would multiply by a number's inverse instead of dividing."""
    # late: what only opens pictures need not load it
    import torch

    return tuple(torch.tensor(row, device=device)[:, None, None] for row in ((255.0,), _MEAN, _STD))


def to_input(image: Image.Image, size: int) -> torch.Tensor:
    """SAM 2's input of one picture: (3, size, size) float32."""
    import torch

    return normalised(torch.from_numpy(to_square(image, size).copy())[None])[0]
