"""A large picture that stays in memory, for a closer look at parts of it."""

from __future__ import annotations

from collections import OrderedDict

from PIL import Image

from model.values.embedding import Embedding
from model.values.window import Window

KEPT_BYTES = 256 << 20
"""Image features of crops and tiles that one picture's `InMemory` keeps at most."""


class InMemory:
    """An `Embedding.detail`: a picture that stays decoded, and the embeddings of its windows that were used last.

    Args:
        image: upright RGB.
    """

    def __init__(self, image: Image.Image) -> None:
        self._image = image
        self._kept: OrderedDict[Window, Embedding] = OrderedDict()

    def crop(self, window: Window) -> Image.Image:
        return window.of(self._image)

    def remembered(self, window: Window) -> Embedding | None:
        found = self._kept.get(window)
        if found is not None:
            self.remember(window, found)
        return found

    def remember(self, window: Window, embedding: Embedding) -> None:
        self._kept[window] = embedding
        self._kept.move_to_end(window)
        while len(self._kept) > max(1, KEPT_BYTES // embedding.nbytes):
            self._kept.popitem(last=False)
