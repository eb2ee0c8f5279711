"""Pictures: opening them safely, upright RGB pixels, and SAM 2's input tensor."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from model.errors import PictureError, PictureTooLargeError

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
        with warnings.catch_warnings():
            # the limit is ours (max_pixels); Pillow's own warning would only say it twice
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
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
        raise PictureError(f"the file is not a picture of a known format ({', '.join(FORMATS)})") from None
    except _DAMAGE as error:
        raise PictureError(f"the picture is truncated or damaged ({error}): upload it again") from None


def to_rgb(image: Image.Image) -> Image.Image:
    """Upright 8-bit RGB as a browser shows it: EXIF orientation applied, alpha over white, 16 bit scaled to 8."""
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I;16", "I;16B", "I;16L", "I"):
        image = Image.fromarray((np.asarray(image, dtype=np.float32) / 257.0).round().clip(0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(ground, image).convert("RGB")
    return image.convert("RGB")


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


def to_input(image: Image.Image, size: int) -> torch.Tensor:
    """SAM 2's input as PAM makes it: (3, size, size) float32, bicubic, aspect not kept, ImageNet mean and std.

    Pillow's antialiased bicubic on uint8 is part of the contract: torchvision's resize gives other features.
    """
    pixels = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC)) / 255.0
    tensor = torch.from_numpy(pixels).permute(2, 0, 1).to(torch.float32)
    return (tensor - torch.tensor(_MEAN)[:, None, None]) / torch.tensor(_STD)[:, None, None]
