"""Pictures fetched and opened by a few threads: those of a step beside each other, and those of the next one ahead."""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.fetching.pictures import PictureStore
from backend.settings import Settings

if TYPE_CHECKING:
    from PIL import Image

    from model import Embedding, Span

_THREADS = 4
"""Fetching is waiting, and Pillow's decoders leave other threads alone."""

_AHEAD_BYTES = 256 << 20
"""Of pictures that were opened ahead: where there are more, the others wait for their turn."""


@dataclass(eq=False)
class Picture:
    """A picture that was fetched.

    Attributes:
        content: a digest of its bytes.
        data: the bytes, where it was not opened; else b"".
        image: upright RGB, where it was opened.
        fault: why it cannot be opened.
        embedding: what was encoded ahead (`model.PerceiveAnything.beside`), and when.
        tried: it was, or could not be.
    """

    content: str
    data: bytes
    image: Image.Image | None = None
    fault: Exception | None = None
    embedding: tuple[Embedding, Span] | None = None
    tried: bool = False

    @property
    def nbytes(self) -> int:
        return len(self.data) + (3 * self.image.width * self.image.height if self.image is not None else 0)


@dataclass(frozen=True, eq=False)
class _UnderWay:
    """What a thread gives for an address, None where there was no room; to be believed until then."""

    future: Future[Picture | None]
    until: float


class Prefetch:
    """Fetches and opens pictures, asked by one thread.

    Args:
        settings: limits, and how long an address is taken to show the same picture.
        pictures: where they come from; safe to use from many threads.
        known: whether a picture with this content need not be opened; asked from other threads.
    """

    def __init__(self, settings: Settings, pictures: PictureStore, known: Callable[[str], bool]) -> None:
        self._pictures = pictures
        self._known = known
        self._most_pixels = settings.max_picture_pixels
        self._believed_s = settings.picture_memory_s
        self._lock = threading.Lock()  # of `_under_way`, which the threads read
        self._under_way: dict[str, _UnderWay] = {}
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="picture")

    @property
    def nbytes(self) -> int:
        """Bytes of the pictures that wait for their turn."""
        return sum(picture.nbytes for picture in self._waiting())

    def begin(self, addresses: Sequence[str]) -> None:
        """These are taken now: they are loaded beside each other."""
        if len(addresses) > 1:
            self._start(addresses, self._load, math.inf)

    def expect(self, addresses: Sequence[str], now: Sequence[str] = ()) -> None:
        """These are taken next, as far as anybody knows, after those that are taken now; others that were expected are
        dropped."""
        with self._lock:
            for address in [address for address in self._under_way if address not in (*addresses, *now)]:
                self._under_way.pop(address).future.cancel()
        self._start(addresses, self._load_ahead, time.monotonic() + self._believed_s)

    def take(self, address: str) -> Picture:
        """The picture, waited for or loaded here; raises why it cannot be fetched."""
        ahead = self._under_way.get(address)
        if ahead is not None:
            # a time limit may interrupt this: then it stays under way
            wait([ahead.future])
            with self._lock:
                del self._under_way[address]
            if time.monotonic() < ahead.until and (picture := ahead.future.result()) is not None:
                return picture
        return self._load(address)

    def untried(self) -> Picture | None:
        """A picture that was opened ahead and that nobody has tried to encode."""
        return next((picture for picture in self._waiting() if picture.image is not None and not picture.tried), None)

    def open(self, picture: Picture) -> Image.Image:
        """Its pixels, upright RGB; raises what is wrong with them."""
        from model import open_picture

        if picture.fault is not None:
            raise picture.fault
        return picture.image if picture.image is not None else open_picture(picture.data, self._most_pixels)

    def _start(self, addresses: Sequence[str], load: Callable[[str], Picture | None], until: float) -> None:
        with self._lock:
            for address in addresses:
                if address not in self._under_way:
                    self._under_way[address] = _UnderWay(self._pool.submit(load, address), until)

    def _waiting(self) -> list[Picture]:
        with self._lock:
            futures = [ahead.future for ahead in self._under_way.values()]
        done = [future for future in futures if future.done() and not future.cancelled() and not future.exception()]
        return [picture for future in done if (picture := future.result()) is not None]

    def _load_ahead(self, address: str) -> Picture | None:
        return self._load(address) if self.nbytes < _AHEAD_BYTES else None

    def _load(self, address: str) -> Picture:
        data = self._pictures.fetch(address)
        picture = Picture(hashlib.sha256(data).hexdigest(), data)
        if not self._known(picture.content):
            try:
                picture.image, picture.data = self.open(picture), b""
            except Exception as error:  # said when its turn comes
                picture.fault = error
        return picture
