"""The pictures a worker works on: fetched, and their embeddings remembered, waited for, or made."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from backend.fetching.pictures import PictureStore
from backend.settings import Settings
from backend.worker.detail import CachedDetail, Originals
from backend.worker.embedding_cache import Addresses, EmbeddingCache
from backend.worker.embedding_locks import EmbeddingLocks

if TYPE_CHECKING:
    from PIL import Image

    from model import Embedding, PerceiveAnything, Span

_PATIENCE = 2.0
"""An embedding is waited for as long as making it so many times takes, by this worker's own measure."""


@dataclass(frozen=True, eq=False)
class Seen:
    """A picture's embedding, whether it was there already, and what it took, in seconds.

    `encoding` is when, on the device's clock: who asks for its seconds waits for the device.
    """

    embedding: Embedding
    cached: bool
    fetch_s: float
    encoding: Span | None = None
    opening_s: float = 0.0

    @property
    def encode_s(self) -> float:
        """Its share of what the pictures that were missing took together, opening them not counted."""
        return 0.0 if self.encoding is None else max(0.0, self.encoding.seconds() - self.opening_s)


@dataclass(eq=False)
class _Missing:
    """A picture that is not remembered: its bytes, the places of the addresses that show it, seconds to open it."""

    data: bytes
    places: list[int]
    open_s: float = 0.0


class Embeddings:
    """Embeddings by address, each encoded once however many jobs and workers want it; `cache` holds them."""

    def __init__(
        self, settings: Settings, pam: PerceiveAnything, pictures: PictureStore, locks: EmbeddingLocks
    ) -> None:
        self._pam = pam
        self._pictures = pictures
        self._locks = locks
        self._most_pixels = settings.max_picture_pixels
        self._addresses = Addresses(settings.picture_memory_s)
        on_host = pam.device.type == "cpu"
        self.cache = EmbeddingCache(
            settings.embedding_cache_bytes, 0 if on_host else settings.embedding_host_bytes, str(pam.device)
        )
        self._large_side = settings.large_side
        self._originals = Originals(settings, pictures)
        self._encoded = 0
        self._received = 0
        self._latest: Span | None = None  # of the newest pictures encoded here

    def stats(self) -> dict[str, float]:
        """For /metrics."""
        cache = self.cache
        return {
            "embedding_hits": cache.stats.hits,
            "embedding_misses": cache.stats.misses,
            "embedding_evictions": cache.stats.evictions,
            "embedding_bytes": cache.nbytes,
            "embedding_host_bytes": cache.host_nbytes,
            "picture_bytes": self._originals.nbytes,
            "embeddings_encoded": self._encoded,
            "embeddings_received": self._received,
        }

    def look(self, addresses: Sequence[str]) -> list[Seen | Exception]:
        """Of each address its picture, or what is wrong with it; those that are missing are encoded together."""
        found: list[Seen | Exception | None] = [None] * len(addresses)
        fetch_s = [0.0] * len(addresses)
        missing: dict[str, _Missing] = {}
        for i, address in enumerate(addresses):
            begin = time.perf_counter()
            try:
                there = self._remembered(address, missing, i)
            except Exception as error:  # one picture's fault must not be another's
                found[i] = error
                continue
            fetch_s[i] = time.perf_counter() - begin
            if there is not None:
                found[i] = Seen(there, True, fetch_s[i])
        asked = self._pam.clock.now()
        made = self._make(missing)
        encoding = self._pam.clock.since(asked).shared(max(1, len(missing)))
        opening_s = sum(picture.open_s for picture in missing.values()) / max(1, len(missing))
        for content, result in made.items():
            picture = missing[content]
            for i in picture.places:
                found[i] = (
                    result
                    if isinstance(result, Exception)
                    else Seen(result, False, fetch_s[i] + picture.open_s, encoding, opening_s)
                )
        return [seen for seen in found if seen is not None]

    def picture(self, address: str) -> Image.Image:
        """The picture itself, upright RGB; raises what is wrong with it."""
        from model import open_picture

        return open_picture(self._pictures.fetch(address), self._most_pixels)

    def _remembered(self, address: str, missing: dict[str, _Missing], place: int) -> Embedding | None:
        """The embedding, or None with the picture's bytes among the missing ones."""
        known = self._addresses.get(address)
        if known is not None and self._originals.is_gone(known):
            known = None
        embedding = self.cache.get(known) if known is not None else None
        if known is not None and embedding is not None:
            self._originals.found_at(known, address)
            return embedding
        data = self._pictures.fetch(address)
        content = hashlib.sha256(data).hexdigest()
        self._addresses.put(address, content)
        self._originals.found_at(content, address)
        # the same picture under another address is the same picture
        embedding = self.cache.get(content) if content != known else None
        if embedding is None:
            missing.setdefault(content, _Missing(data, [])).places.append(place)
        return embedding

    def _make(self, missing: dict[str, _Missing]) -> dict[str, Embedding | Exception]:
        """Encode what is ours to encode, then wait for what other workers are encoding."""
        tickets = {content: self._locks.take(content) for content in missing}
        made = self._encode({c: missing[c] for c, ticket in tickets.items() if ticket is None}, locked=True)
        for content, ticket in tickets.items():
            if ticket is None:
                continue
            measured = 0.0 if self._latest is None else self._latest.seconds()
            handed = self._locks.wait(content, ticket, _PATIENCE * measured)
            if handed is None:
                made |= self._encode({content: missing[content]}, locked=False)
            else:
                self._received += 1
                made[content] = handed.to(self._pam.device)
        for content, result in made.items():
            if not isinstance(result, Exception):
                made[content] = seen = self._with_detail(content, result)
                self.cache.put(content, seen)
        return made

    def _with_detail(self, content: str, embedding: Embedding) -> Embedding:
        """The embedding of a large picture, with where its pixels can be had."""
        if not self._is_large(embedding.width, embedding.height):
            return embedding
        return replace(embedding, detail=CachedDetail(content, self._originals, self.cache))

    def _is_large(self, width: int, height: int) -> bool:
        return 0 < self._large_side < max(width, height)

    def _encode(self, pictures: dict[str, _Missing], locked: bool) -> dict[str, Embedding | Exception]:
        from model import open_picture

        made: dict[str, Embedding | Exception] = {}
        images = {}
        try:
            for content, picture in pictures.items():
                begin = time.perf_counter()
                try:
                    images[content] = open_picture(picture.data, self._most_pixels)
                except Exception as error:
                    made[content] = error
                picture.open_s = time.perf_counter() - begin
            if images:
                asked = self._pam.clock.now()
                made |= zip(images, self._pam.encode_all(list(images.values()), large=0), strict=True)
                self._latest = self._pam.clock.since(asked).shared(len(images))
                self._encoded += len(images)
                for content, image in images.items():
                    if self._is_large(image.width, image.height):
                        self._originals.put(content, image)
        finally:
            if locked:
                for content in pictures:
                    result = made.get(content)
                    self._locks.done(content, None if isinstance(result, Exception) else result)
        return made
