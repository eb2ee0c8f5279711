"""Files of the worker's own machine: below the configured roots only, also while somebody moves links about."""

from __future__ import annotations

import contextlib
import os
import stat
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from backend.errors import PictureForbidden, PictureNotFound
from backend.fetching.download import Limits
from backend.net.address import shorten

_CHUNK = 1 << 20


def copy(
    reference: str, roots: Sequence[Path], sink: BinaryIO, limits: Limits, machine: str = "the worker's machine"
) -> None:
    """Write a local file into `sink`.

    Args:
        reference: an absolute path or a `file:` URL.
        roots: folders below which a file may lie, after all links are resolved.
        sink: takes the bytes; after an error it may hold a part of them.
        limits: its seconds are not used.
        machine: whose files these are, for messages.

    Raises:
        PictureForbidden: outside the roots.
        PictureNotFound, PictureTooLarge.
    """
    raw = path_of(reference)
    resolved = [root.resolve() for root in roots]
    try:
        path = Path(raw).resolve(strict=True)
    except (OSError, ValueError):
        # what lies outside is not even said to be missing, nor what a link that is being changed leads to
        meant = None
        with contextlib.suppress(OSError):
            meant = Path(os.path.realpath(raw.replace("\0", "")))
        if meant is not None and any(meant.is_relative_to(root) for root in resolved):
            raise PictureNotFound(f"there is no file {shorten(raw)!r} on {machine}") from None
        path = None
    root = next((root for root in resolved if path is not None and path.is_relative_to(root)), None)
    if path is None or root is None:
        raise PictureForbidden(
            f"the file {shorten(raw)!r} is not below an allowed folder: add its folder to PALLAS_LOCAL_ROOTS"
        )
    try:
        number = _open_below(root, path.relative_to(root).parts)
    except OSError:
        raise PictureNotFound(f"{shorten(raw)!r} cannot be opened on {machine}") from None
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise PictureNotFound(f"{shorten(raw)!r} is not a file")
    with os.fdopen(number, "rb") as file:
        received = 0
        while chunk := file.read(_CHUNK):
            received += len(chunk)
            if received > limits.max_bytes:
                raise limits.too_large(repr(shorten(raw)))
            sink.write(chunk)


def path_of(reference: str) -> str:
    """The path in a `file:` URL; what is none stays as it is."""
    if not reference.lower().startswith("file:"):
        return reference
    return urllib.parse.unquote(urllib.parse.urlsplit(reference).path)


def _open_below(root: Path, parts: Sequence[str]) -> int:
    """Open a resolved path step by step, following no link: one put there after the check would lead out."""
    number = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    for i, part in enumerate(parts):
        # without waiting: a named pipe would block until somebody writes
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | (os.O_DIRECTORY if i < len(parts) - 1 else 0)
        try:
            below = os.open(part, flags, dir_fd=number)
        finally:
            os.close(number)
        number = below
    return number
