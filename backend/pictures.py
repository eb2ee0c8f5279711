"""Fetching a picture's bytes, from wherever a task says it is; every size has a limit."""

from __future__ import annotations

import base64
import binascii
import hashlib
import time
import urllib.parse
from pathlib import Path

import redis
import requests
import urllib3

from backend.errors import BadRequest, PictureError, PictureForbidden, PictureNotFound, PictureTooLarge
from backend.errors import PictureUnreachable as Unreachable
from backend.label_studio import PATHS, LabelStudio
from backend.settings import Settings

_CHUNK = 1 << 16
_BLOB_TTL_S = 600
_BLOB_KEY = "pallas:blob:"


def park(reference: str, client: redis.Redis, settings: Settings) -> str:
    """Put the bytes of a data URL into Redis once, and return a short reference; other references stay as they are.

    Raises:
        BadRequest, PictureError, PictureTooLarge: the data URL is not base64 of something.
    """
    if not reference.startswith("data:"):
        return reference
    data = _decode_data_url(reference, settings.max_picture_bytes)
    digest = hashlib.sha256(data).hexdigest()
    # the next click on the same picture only renews it
    if not client.expire(_BLOB_KEY + digest, _BLOB_TTL_S):
        client.set(_BLOB_KEY + digest, data, ex=_BLOB_TTL_S)
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
        self._session = requests.Session()

    def read(self, reference: str) -> bytes:
        """The encoded bytes of a picture.

        Args:
            reference: an http(s) URL, a path of Label Studio (`/data/...`), a `file:` URL or absolute path below one
                of the local roots, or a `blob:` from `park`.

        Raises:
            PictureNotFound, PictureForbidden, PictureUnreachable, PictureTooLarge, PictureError, BadRequest.
        """
        try:
            scheme = urllib.parse.urlsplit(reference).scheme.lower()
        except ValueError as error:
            raise BadRequest(f"the picture's address cannot be read ({error}): correct the task's data") from None
        if scheme == "blob":
            return self._parked(reference)
        if scheme in ("http", "https"):
            return self._download(reference)
        if reference.startswith(PATHS):
            return self._download(self._label_studio.absolute(reference))
        if scheme == "file" or reference.startswith("/"):
            return self._local(reference)
        raise BadRequest(
            f"the picture's address {shorten(reference)!r} is of a kind that is not supported: give an http(s) URL, "
            "a Label Studio upload (/data/...), a data: URL, or a file below one of PALLAS_LOCAL_ROOTS"
        )

    def _parked(self, reference: str) -> bytes:
        data = self._redis.get(_BLOB_KEY + reference.removeprefix("blob:"))
        if data is None:
            raise PictureNotFound("the picture that came with the request has expired in the queue: send it again")
        assert isinstance(data, bytes)
        return data

    def _download(self, url: str) -> bytes:
        settings = self._settings
        where = shorten(url)
        try:
            headers = self._label_studio.headers_for(url)
            with self._session.get(url, headers=headers, timeout=settings.fetch_timeout_s, stream=True) as answer:
                self._check_status(answer, where)
                return self._receive(answer, where)
        except requests.Timeout:
            raise Unreachable(
                f"{where} did not answer within {settings.fetch_timeout_s:g} s: is its host up?"
            ) from None
        except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError, UnicodeError) as error:
            raise Unreachable(
                f"{where} cannot be reached ({type(error).__name__}): is the address right, as seen from the worker?"
            ) from None

    def _receive(self, answer: requests.Response, where: str) -> bytes:
        limit, patience_s = self._settings.max_picture_bytes, self._settings.fetch_timeout_s
        until = time.monotonic() + patience_s
        too_large = PictureTooLarge(f"the picture {where} is larger than {limit:,} bytes: make it smaller")
        if int(answer.headers.get("Content-Length") or 0) > limit:
            raise too_large
        data = bytearray()
        # read1 returns with what is there: a host that trickles cannot hold the worker beyond the limit
        while chunk := answer.raw.read1(_CHUNK, decode_content=True):
            data += chunk
            if len(data) > limit:
                raise too_large
            if time.monotonic() > until:
                raise Unreachable(f"{where} did not send the picture within {patience_s:g} s: is its host slow?")
        return bytes(data)

    def _check_status(self, answer: requests.Response, where: str) -> None:
        code = answer.status_code
        if code in (401, 403):
            raise PictureForbidden(
                f"{where} answers {code}: set LABEL_STUDIO_URL to its host and LABEL_STUDIO_API_KEY to a token "
                "(a legacy token must be enabled in the organization's settings)"
            )
        if code in (404, 410):
            raise PictureNotFound(f"{where} answers {code}: the picture is not there; is the task's data right?")
        if not answer.ok:
            raise Unreachable(f"{where} answers {code}: try again later")

    def _local(self, reference: str) -> bytes:
        raw = reference
        if reference.lower().startswith("file:"):
            raw = urllib.parse.unquote(urllib.parse.urlsplit(reference).path)
        try:
            # links are resolved first, so that none leads out of a root
            path = Path(raw).resolve(strict=True)
        except (OSError, ValueError):
            path = None
        roots = [root.resolve() for root in self._settings.local_roots]
        if path is None:
            candidate = Path(raw.replace("\0", ""))
            if any(candidate.is_relative_to(root) for root in roots):
                raise PictureNotFound(f"there is no file {shorten(raw)!r} on the worker's machine")
        if path is None or not any(path.is_relative_to(root) for root in roots):
            raise PictureForbidden(
                f"the file {shorten(raw)!r} is not below an allowed folder: add its folder to PALLAS_LOCAL_ROOTS"
            )
        if not path.is_file():
            raise PictureNotFound(f"{shorten(raw)!r} is not a file")
        if path.stat().st_size > self._settings.max_picture_bytes:
            raise PictureTooLarge(f"{shorten(raw)!r} is larger than {self._settings.max_picture_bytes:,} bytes")
        return path.read_bytes()


def shorten(address: str) -> str:
    """An address for messages: without user, password and query (which may hold signatures), at most 120 characters."""
    # only those: a file's name need not be an address that can be split
    if address.lower().startswith(("http://", "https://")):
        parts = urllib.parse.urlsplit(address)
        address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    return address if len(address) <= 120 else f"{address[:117]}..."


def _decode_data_url(reference: str, limit: int) -> bytes:
    head, _, body = reference.partition(",")
    if not head.endswith(";base64"):
        raise BadRequest("the picture's data: URL is not base64: send data:image/png;base64,...")
    # 4 characters carry 3 bytes: the limit can be checked before anything is decoded
    if len(body) * 3 // 4 > limit + 3:
        raise PictureTooLarge(f"the picture in the request is larger than {limit:,} bytes: make it smaller")
    try:
        return base64.b64decode(body, validate=True)
    except binascii.Error as error:
        raise PictureError(f"the picture's data: URL is damaged ({error}): send it again") from None
