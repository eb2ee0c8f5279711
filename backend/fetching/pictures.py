"""A picture's bytes, from wherever a task says it is; every size has a limit."""

from __future__ import annotations

import hashlib
import io
import re
import urllib.parse
from typing import BinaryIO

import redis

from backend.errors import BadRequest, PictureError, PictureExpired, PictureTooLarge, QueueFull
from backend.fetching import local
from backend.fetching.download import Downloads, Limits
from backend.label_studio.access import LabelStudio
from backend.net import data_url
from backend.net.address import shorten
from backend.queueing.blobs import Blobs, read_blob
from backend.settings import Settings

_PARKED = re.compile(r"blob:[\w-]*[0-9a-f]{40}")
"""Names that our own blobs have; a browser's own `blob:` addresses look otherwise, and nobody but it can read them."""


def park(reference: str, client: redis.Redis, settings: Settings) -> str:
    """Put the bytes of a data URL into Redis once, and return a short reference; other references stay as they are.

    Raises:
        PictureError, PictureTooLarge: the data URL cannot be read.
        QueueFull: the pictures of others that wait fill their share of Redis.
    """
    if not data_url.is_data_url(reference):
        return reference
    data = _decode_data_url(reference, settings.max_picture_bytes)
    digest = hashlib.sha256(data).hexdigest()
    blobs, sizes = Blobs.of_requests(settings, client), {digest: len(data)}
    if not blobs.take_room(sizes):
        raise QueueFull(
            "the pictures inside requests that wait fill their share of Redis: try again in a moment, or give pictures "
            "by their address, or raise PALLAS_PICTURE_QUEUE_BYTES"
        )
    # the next click on the same picture only renews it
    if not blobs.renew(sizes):
        blobs.put(digest, data)
    return f"blob:{digest}"


class PictureStore:
    """Gets the bytes of pictures; used by the worker.

    Args:
        settings: limits, roots and Label Studio's address.
        client: Redis, for parked data URLs.
    """

    def __init__(self, settings: Settings, client: redis.Redis) -> None:
        self._settings = settings
        self._redis = client
        self._label_studio = LabelStudio(settings)
        self._downloads = Downloads(settings)

    def fetch(self, reference: str) -> bytes:
        """The encoded bytes of a picture; references and errors as `copy` has them."""
        sink = io.BytesIO()
        self.copy(reference, sink, Limits(self._settings.max_picture_bytes, self._settings.fetch_timeout_s))
        return sink.getvalue()

    def copy(self, reference: str, sink: BinaryIO, limits: Limits) -> None:
        """Write what a reference points to into `sink` (memory, or an open file); also of what is no picture.

        Args:
            reference: an http(s) URL, a path of Label Studio (`/data/...`), a `file:` URL or absolute path below one
                of the local roots, or a `blob:` from `park`.
            sink: takes the bytes; after an error it may hold a part of them.
            limits: of time and bytes.

        Raises:
            PictureNotFound, PictureForbidden, PictureUnreachable, PictureExpired, PictureTooLarge, PictureError,
            BadRequest.
        """
        try:
            scheme = urllib.parse.urlsplit(reference).scheme.lower()
        except ValueError as error:
            raise BadRequest(f"the {limits.noun}'s address cannot be read ({error}): correct the task's data") from None
        if _PARKED.fullmatch(reference):
            sink.write(self._parked(reference))
        elif scheme in ("http", "https"):
            self._downloads.fetch(reference, sink, limits)
        elif self._label_studio.serves(reference):
            self._downloads.fetch(self._label_studio.absolute(reference), sink, limits)
        elif scheme == "file" or reference.startswith("/"):
            local.copy(reference, self._settings.local_roots, sink, limits)
        else:
            raise BadRequest(
                f"the {limits.noun}'s address {shorten(reference)!r} is of a kind that is not supported: give an "
                "http(s) URL, a Label Studio upload (/data/...), a data: URL, or a file below one of PALLAS_LOCAL_ROOTS"
            )

    def _parked(self, reference: str) -> bytes:
        data = read_blob(self._redis, reference.removeprefix("blob:"))
        if data is None:
            raise PictureExpired("the picture that came with the request has expired in the queue: send it again")
        return data


def _decode_data_url(reference: str, limit: int) -> bytes:
    try:
        data = data_url.decode(reference)
    except ValueError as error:
        raise PictureError(f"the picture's data: URL is damaged ({error}): send it again") from None
    if len(data) > limit:
        raise PictureTooLarge(f"the picture in the request is larger than {limit:,} bytes: make it smaller")
    return data
