"""The pixels of large pictures, for the crops and tiles that a worker looks at closer."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import TYPE_CHECKING

from backend.errors import PictureExpired
from backend.fetching.pictures import PictureStore
from backend.settings import Settings
from backend.worker.embedding_cache import EmbeddingCache

if TYPE_CHECKING:
    from PIL import Image

    from model import Embedding, Window

_MOST_ADDRESSES = 10_000


class Originals:
    """Decoded pictures by content, the most recently used ones, bounded in bytes; others are fetched again.

    Args:
        settings: limits.
        pictures: where they come from.
    """

    def __init__(self, settings: Settings, pictures: PictureStore) -> None:
        self._limit = settings.picture_cache_bytes
        self._most_pixels = settings.max_picture_pixels
        self._pictures = pictures
        self._kept: OrderedDict[str, Image.Image] = OrderedDict()
        self._addresses: OrderedDict[str, str] = OrderedDict()
        self._gone: set[str] = set()

    @property
    def nbytes(self) -> int:
        """Bytes of pixels that are kept."""
        return sum(map(_nbytes, self._kept.values()))

    def found_at(self, content: str, address: str) -> None:
        """A picture was asked for by this address; an older one may have expired."""
        self._gone.discard(content)
        self._addresses[content] = address
        self._addresses.move_to_end(content)
        while len(self._addresses) > _MOST_ADDRESSES:
            self._addresses.popitem(last=False)

    def is_gone(self, content: str) -> bool:
        """Whether another picture was last found at its address."""
        return content in self._gone

    def put(self, content: str, image: Image.Image) -> None:
        """Keep a picture that was just decoded, if there is room for it at all."""
        if _nbytes(image) > self._limit:
            return
        self._kept[content] = image
        self._kept.move_to_end(content)
        while self.nbytes > self._limit:
            self._kept.popitem(last=False)

    def get(self, content: str) -> Image.Image:
        """Upright RGB.

        Raises:
            PictureExpired: another picture is at its address now.
            PictureNotFound and the like: it cannot be fetched again.
        """
        from model import open_picture

        image = self._kept.get(content)
        if image is None:
            data = self._pictures.fetch(self._addresses.get(content, ""))
            if hashlib.sha256(data).hexdigest() != content:
                self._gone.add(content)
                raise PictureExpired("the picture has changed since it was last seen: reload the page and try again")
            image = open_picture(data, self._most_pixels)
        self.put(content, image)
        return image


def _nbytes(image: Image.Image) -> int:
    return 3 * image.width * image.height


class CachedDetail:
    """One picture's `model.Embedding.detail`: its crops' embeddings are in the worker's cache, beside the whole's.

    Args:
        content: of the picture, the key of its own embedding.
        originals: have its pixels.
        cache: bounds the embeddings.
    """

    def __init__(self, content: str, originals: Originals, cache: EmbeddingCache) -> None:
        self._content = content
        self._originals = originals
        self._cache = cache

    def crop(self, window: Window) -> Image.Image:
        return window.of(self._originals.get(self._content))

    def remembered(self, window: Window) -> Embedding | None:
        return self._cache.get(self._key(window), counted=False)

    def remember(self, window: Window, embedding: Embedding) -> None:
        # its parts must not drive out the picture itself
        self._cache.get(self._content, counted=False)
        self._cache.put(self._key(window), embedding)

    def _key(self, window: Window) -> str:
        return f"{self._content}:{window.left},{window.top},{window.width},{window.height}"
