"""What a worker remembers of pictures: their embeddings, by content; on the device, and behind it in host memory."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from model import Embedding


@dataclass
class CacheStats:
    """Since the worker began: looks that found the picture, and that did not; pictures dropped for good."""

    hits: int = 0
    misses: int = 0
    evictions: int = 0


class EmbeddingCache:
    """The most recently used embeddings by the picture's content, bounded in bytes.

    Args:
        limit_bytes: on the device.
        host_bytes: in host memory, for what the device has no room for; 0 where the device is the host itself.
        device: that embeddings are wanted on.
    """

    def __init__(self, limit_bytes: int, host_bytes: int = 0, device: str = "cpu") -> None:
        self._device = device
        self._near = _Tier(limit_bytes)
        self._far = _Tier(host_bytes)
        self.stats = CacheStats()

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return self._near.nbytes

    @property
    def host_nbytes(self) -> int:
        """Bytes in host memory."""
        return self._far.nbytes

    def get(self, key: str, counted: bool = True) -> Embedding | None:
        """The embedding on the device; one from host memory is brought back. `counted`: among hits or misses."""
        found = self._near.get(key)
        if found is None:
            far = self._far.pop(key)
            if far is not None:
                found = far.to(self._device)
                self._put(key, found)
        if counted and found is None:
            self.stats.misses += 1
        elif counted:
            self.stats.hits += 1
        return found

    def put(self, key: str, embedding: Embedding) -> None:
        if key not in self._near:
            self._far.pop(key)
            self._put(key, embedding)

    def _put(self, key: str, embedding: Embedding) -> None:
        for old, dropped in self._near.put(key, embedding):
            gone = self._far.put(old, dropped.to("cpu")) if self._far.limit else [(old, dropped)]
            self.stats.evictions += len(gone)

    def __contains__(self, key: str) -> bool:
        """May be asked from another thread."""
        return key in self._near or key in self._far

    def __len__(self) -> int:
        return len(self._near) + len(self._far)


class Addresses:
    """Which content an address had when it was last fetched; believed for a while, so that a click need not fetch."""

    def __init__(self, believed_s: float, most: int = 10_000) -> None:
        self._believed_s = believed_s
        self._most = most
        self._known: OrderedDict[str, tuple[str, float]] = OrderedDict()

    def get(self, address: str) -> str | None:
        """The content's key, or None where it is not known or too old."""
        key, until = self._known.get(address, ("", 0.0))
        return key if time.monotonic() < until else None

    def put(self, address: str, key: str) -> None:
        """The content was just fetched."""
        self._known[address] = (key, time.monotonic() + self._believed_s)
        self._known.move_to_end(address)
        while len(self._known) > self._most:
            self._known.popitem(last=False)


class _Tier:
    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.nbytes = 0
        self._kept: OrderedDict[str, Embedding] = OrderedDict()

    def get(self, key: str) -> Embedding | None:
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key]

    def pop(self, key: str) -> Embedding | None:
        found = self._kept.pop(key, None)
        if found is not None:
            self.nbytes -= found.nbytes
        return found

    def put(self, key: str, embedding: Embedding) -> list[tuple[str, Embedding]]:
        """Keep it; returns what had to go for it, which may be itself."""
        if embedding.nbytes > self.limit:
            return [(key, embedding)]
        self._kept[key] = embedding
        self.nbytes += embedding.nbytes
        dropped = []
        while self.nbytes > self.limit:
            old, oldest = self._kept.popitem(last=False)
            self.nbytes -= oldest.nbytes
            dropped.append((old, oldest))
        return dropped

    def __contains__(self, key: str) -> bool:
        return key in self._kept

    def __len__(self) -> int:
        return len(self._kept)
