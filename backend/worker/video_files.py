"""Videos that an annotator is at work on: fetched once, and kept on this worker's disk for a while."""

from __future__ import annotations

import time
from collections import OrderedDict
from tempfile import _TemporaryFileWrapper

from backend.fetching.pictures import PictureStore
from backend.fetching.videos import fetch
from backend.settings import Settings

KEPT = 2
"""Videos at most; each may be as large as PALLAS_MAX_VIDEO_BYTES."""


class VideoFiles:
    """The newest files, by address.

    Args:
        settings: limits, and how long an address is taken to show the same video.
        pictures: fetches.
    """

    def __init__(self, settings: Settings, pictures: PictureStore) -> None:
        self._settings = settings
        self._pictures = pictures
        self._kept: OrderedDict[str, tuple[_TemporaryFileWrapper[bytes], float]] = OrderedDict()

    def get(self, address: str) -> _TemporaryFileWrapper[bytes]:
        """The file; it is gone when nobody holds it any more. Raises what `fetch` raises."""
        kept = self._kept.pop(address, None)
        if kept is None or kept[1] < time.monotonic():
            kept = fetch(self._pictures, address, self._settings), time.monotonic() + self._settings.picture_memory_s
        self._kept[address] = kept
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return kept[0]
