"""The pictures and videos of an export: where they come from, upright, copied or linked."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path
from urllib.parse import unquote, urlsplit

import redis
from PIL import Image, ImageOps

from backend.bulk.local import LocalPictures
from backend.errors import PictureError, PictureTooLarge
from backend.fetching.pictures import PictureStore
from backend.label_studio.access import cloud_path
from backend.net import data_url
from backend.settings import Settings

_SUFFIXES = {
    "JPEG": ".jpg",
    "PNG": ".png",
    "WEBP": ".webp",
    "BMP": ".bmp",
    "GIF": ".gif",
    "TIFF": ".tif",
    "MPO": ".jpg",
}
_ORIENTATION = 0x0112
_QUALITY = 95


class Pictures:
    """Knows where pictures are.

    Args:
        settings: limits, roots, Label Studio.
        folder: of the input, below which relative paths are; None for a project.
        how: copy, link or none.
    """

    def __init__(self, settings: Settings, folder: Path | None, how: str) -> None:
        # of Redis nothing is asked: data URLs are read here
        client = redis.Redis()
        self._local = LocalPictures(settings, client, folder) if folder is not None else None
        roots = self._local.roots if self._local is not None else settings.local_roots
        self._settings = settings.model_copy(update={"local_roots": tuple(roots)})
        self.store = PictureStore(self._settings, client)
        self.how = how

    @property
    def settings(self) -> Settings:
        """With the input's folder among the roots."""
        return self._settings

    def address(self, reference: str, task: int | None) -> str:
        """As the store reads it. Raises what is wrong with it."""
        here = self._local.address(reference) if self._local is not None else None
        return here if here is not None else cloud_path(reference.strip(), task)

    def data(self, reference: str, task: int | None) -> bytes:
        """The encoded bytes. Raises every error of a picture."""
        if data_url.is_data_url(reference):
            try:
                data = data_url.decode(reference)
            except ValueError as error:
                raise PictureError(f"the data: URL is damaged ({error})") from None
            if len(data) > self._settings.max_picture_bytes:
                raise PictureTooLarge(f"the picture has more than {self._settings.max_picture_bytes:,} bytes")
            return data
        return self.store.fetch(self.address(reference, task))

    def size(self, data: bytes) -> tuple[int, int]:
        """Width and height as browsers show it. Raises PictureError, PictureTooLarge."""
        picture = self._opened(data)
        return (picture.height, picture.width) if _turned(picture) >= 5 else picture.size

    def keep(self, data: bytes, reference: str, task: int | None, stem: Path) -> Path:
        """Write the picture beside `stem` with its format's suffix; the path.

        One that its EXIF data turns is written upright, since not every tool turns it.
        """
        picture = self._opened(data)
        path = stem.with_name(stem.name + _SUFFIXES.get(picture.format or "", ".png"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        if _turned(picture) > 1:
            upright = ImageOps.exif_transpose(picture)
            # formats without losses take no notice of it
            upright.save(path, quality=_QUALITY)
            return path
        if self.how == "link" and self._link(reference, task, path):
            return path
        path.write_bytes(data)
        return path

    def _link(self, reference: str, task: int | None, path: Path) -> bool:
        """A hard link, where the picture is a file on the same disk."""
        if data_url.is_data_url(reference):
            return False
        parts = urlsplit(self.address(reference, task))
        if parts.scheme != "file":
            return False
        try:
            os.link(Path(unquote(parts.path)).resolve(), path)
        except OSError:
            return False
        return True

    def _opened(self, data: bytes) -> Image.Image:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                picture = Image.open(io.BytesIO(data), formats=list(_SUFFIXES))
        except (OSError, ValueError, Image.DecompressionBombError, SyntaxError) as error:
            raise PictureError(f"it is no picture of a known format ({type(error).__name__})") from None
        if picture.width * picture.height > self._settings.max_picture_pixels:
            raise PictureTooLarge(f"the picture has more than {self._settings.max_picture_pixels:,} pixels")
        return picture


def _turned(picture: Image.Image) -> int:
    """EXIF's orientation, 1 where there is none."""
    try:
        return int(picture.getexif().get(_ORIENTATION) or 1)
    except (OSError, ValueError, SyntaxError):
        return 1
