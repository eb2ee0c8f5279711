"""The pictures a worker works on: fetched, and their embeddings remembered, waited for, or made."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from backend.fetching.pictures import PictureStore
from backend.settings import Settings
from backend.worker.detail import CachedDetail, Originals
from backend.worker.embedding_cache import Addresses, EmbeddingCache
from backend.worker.embedding_locks import EmbeddingLocks
from backend.worker.prefetch import Picture, Prefetch

if TYPE_CHECKING:
    from PIL import Image

    from model import Embedding, PerceiveAnything, Span

_PATIENCE = 2.0
"""An embedding is waited for as long as making it so many times takes, by this worker's own measure."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Seen:
    """A picture's embedding, whether it was there already, and what it took, in seconds.

    `fetch_s` is what it was waited for, until it was open; `encoding` is when, on the device's clock: who asks for its
    seconds waits for the device.
    """

    embedding: Embedding
    cached: bool
    fetch_s: float
    encoding: Span | None = None

    @property
    def encode_s(self) -> float:
        """Its share of what the pictures that were encoded with it took together."""
        return 0.0 if self.encoding is None else self.encoding.seconds()


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
        self._prefetch = Prefetch(settings, pictures, self.cache.__contains__)
        self._count = 0
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
            "picture_bytes": self._originals.nbytes + self._prefetch.nbytes,
            "embeddings_encoded": self._count,
            "embeddings_received": self._received,
        }

    def expect(self, addresses: Sequence[str], now: Sequence[str] = ()) -> None:
        """These are asked for after those of `now`, as far as anybody knows: they are fetched and opened meanwhile."""
        self._prefetch.expect(self._missing(addresses), now)

    def encode_ahead(self) -> None:
        """Encode one of the pictures that were expected and are open by now, beside what the device does for others."""
        picture = self._prefetch.untried()
        if picture is None or picture.image is None:
            return
        picture.tried = True
        try:
            with self._pam.beside():
                (embedding,), span = self._encoded([picture.image])
            picture.embedding = embedding, span
        except Exception:  # its own turn will tell
            log.exception("a picture could not be encoded ahead")

    def look(self, addresses: Sequence[str]) -> list[Seen | Exception]:
        """Of each address its picture, or what is wrong with it; those that are missing are encoded together."""
        found: dict[str, Seen | Exception] = {}
        shown: dict[str, tuple[str, float]] = {}
        missing: dict[str, Picture] = {}
        self._prefetch.begin(self._missing(addresses))
        for address in dict.fromkeys(addresses):
            begin = time.perf_counter()
            try:
                there = self._remembered(address)
            except Exception as error:  # one picture's fault must not be another's
                found[address] = error
                continue
            taken = time.perf_counter() - begin
            if isinstance(there, Picture):
                # the same picture under another address is the same picture
                missing.setdefault(there.content, there)
                shown[address] = there.content, taken
            else:
                found[address] = Seen(there, True, taken)
        asked = self._pam.clock.now()
        made = self._make(missing)
        here = sum(picture.embedding is None for picture in missing.values())
        encoding = self._pam.clock.since(asked).shared(max(1, here))
        for address, (content, taken) in shown.items():
            result, ahead = made[content], missing[content].embedding
            span = encoding if ahead is None else ahead[1]
            found[address] = result if isinstance(result, Exception) else Seen(result, False, taken, span)
        return [found[address] for address in addresses]

    def picture(self, address: str) -> Image.Image:
        """The picture itself, upright RGB; raises what is wrong with it."""
        from model import open_picture

        return open_picture(self._pictures.fetch(address), self._most_pixels)

    def _missing(self, addresses: Sequence[str]) -> list[str]:
        """Those whose embeddings are not remembered, as far as that is known without fetching them; each once."""

        def there(known: str | None) -> bool:
            return known is not None and known in self.cache and not self._originals.is_gone(known)

        return [address for address in dict.fromkeys(addresses) if not there(self._addresses.get(address))]

    def _remembered(self, address: str) -> Embedding | Picture:
        """The embedding, or where there is none the picture."""
        known = self._addresses.get(address)
        if known is not None and self._originals.is_gone(known):
            known = None
        embedding = self.cache.get(known) if known is not None else None
        if known is not None and embedding is not None:
            self._originals.found_at(known, address)
            return embedding
        picture = self._prefetch.take(address)
        self._addresses.put(address, picture.content)
        self._originals.found_at(picture.content, address)
        # it may be known under another address
        embedding = self.cache.get(picture.content) if picture.content != known else None
        return picture if embedding is None else embedding

    def _make(self, missing: dict[str, Picture]) -> dict[str, Embedding | Exception]:
        """Encode what is ours to encode, then wait for what other workers are encoding."""
        made: dict[str, Embedding | Exception] = {}
        for content, picture in missing.items():
            if picture.embedding is not None:
                made[content] = self._pam.joined(picture.embedding[0])
                self._keep_large(content, picture)
        tickets = {content: self._locks.take(content) for content in missing if content not in made}
        made |= self._encode({c: missing[c] for c, ticket in tickets.items() if ticket is None}, locked=True)
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

    def _encode(self, pictures: dict[str, Picture], locked: bool) -> dict[str, Embedding | Exception]:
        made: dict[str, Embedding | Exception] = {}
        images = {}
        try:
            for content, picture in pictures.items():
                try:
                    images[content] = picture.image = self._prefetch.open(picture)
                except Exception as error:
                    made[content] = error
            if images:
                embeddings, self._latest = self._encoded(list(images.values()))
                made |= zip(images, embeddings, strict=True)
                for content in images:
                    self._keep_large(content, pictures[content])
        finally:
            if locked:
                for content in pictures:
                    result = made.get(content)
                    self._locks.done(content, None if isinstance(result, Exception) else result)
        return made

    def _encoded(self, images: Sequence[Image.Image]) -> tuple[list[Embedding], Span]:
        """And what each took."""
        asked = self._pam.clock.now()
        embeddings = self._pam.encode_all(images, large=0)
        self._count += len(images)
        return embeddings, self._pam.clock.since(asked).shared(len(images))

    def _keep_large(self, content: str, picture: Picture) -> None:
        """The pixels of a large picture, for crops."""
        if picture.image is not None and self._is_large(*picture.image.size):
            self._originals.put(content, picture.image)
