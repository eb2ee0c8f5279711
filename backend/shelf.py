"""What a worker remembers of pictures: their embeddings, by content."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from model import Embedding


class EmbeddingShelf:
    """The most recently used embeddings by the picture's content, bounded in bytes."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._kept: OrderedDict[str, Embedding] = OrderedDict()
        self.nbytes = 0

    def get(self, key: str) -> Embedding | None:
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key]

    def put(self, key: str, embedding: Embedding) -> None:
        if embedding.nbytes > self._limit or key in self._kept:
            return
        self._kept[key] = embedding
        self.nbytes += embedding.nbytes
        while self.nbytes > self._limit:
            _, oldest = self._kept.popitem(last=False)
            self.nbytes -= oldest.nbytes

    def __len__(self) -> int:
        return len(self._kept)
