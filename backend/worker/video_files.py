"""Videos that an annotator is at work on: fetched once, and kept on this worker's disk for a while; of their frames the
embeddings.
"""

from __future__ import annotations

import time
import uuid
from collections import OrderedDict
from dataclasses import dataclass, field
from tempfile import _TemporaryFileWrapper
from typing import TYPE_CHECKING

from backend.fetching.pictures import PictureStore
from backend.fetching.videos import fetch
from backend.settings import Settings
from backend.worker.embedding_cache import EmbeddingCache

if TYPE_CHECKING:
    from model import Embedding

KEPT = 2
"""Videos at most; each may be as large as PALLAS_MAX_VIDEO_BYTES."""


@dataclass(frozen=True)
class VideoFile:
    """A fetched video; `key` is of this fetch alone, since an address may show another video later."""

    file: _TemporaryFileWrapper[bytes]
    key: str = field(default_factory=lambda: uuid.uuid4().hex)


class FrameEmbeddings:
    """Those of one video's frames, in the worker's cache beside those of pictures; see `model.video.tracker`."""

    def __init__(self, cache: EmbeddingCache, video: str) -> None:
        self._cache = cache
        self._video = video

    def get(self, time_s: float) -> Embedding | None:
        return self._cache.get(f"{self._video}:{time_s:.6f}")

    def put(self, time_s: float, embedding: Embedding) -> None:
        self._cache.put(f"{self._video}:{time_s:.6f}", embedding)


class VideoFiles:
    """The newest files, by address, and what was encoded of them.

    Args:
        settings: limits, and how long an address is taken to show the same video.
        pictures: fetches.
        cache: of embeddings.
    """

    def __init__(self, settings: Settings, pictures: PictureStore, cache: EmbeddingCache) -> None:
        self._settings = settings
        self._pictures = pictures
        self._cache = cache
        self._kept: OrderedDict[str, tuple[VideoFile, float]] = OrderedDict()

    def get(self, address: str) -> VideoFile:
        """The file is gone when nobody holds it any more. Raises what `fetch` raises."""
        kept = self._kept.pop(address, None)
        if kept is None or kept[1] < time.monotonic():
            kept = (
                VideoFile(fetch(self._pictures, address, self._settings)),
                time.monotonic() + self._settings.picture_memory_s,
            )
        self._kept[address] = kept
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return kept[0]

    def frames(self, video: VideoFile) -> FrameEmbeddings:
        """What is encoded of a video."""
        return FrameEmbeddings(self._cache, video.key)
