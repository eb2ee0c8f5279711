"""A task's video as a file of its own on this machine, and how large it may be."""

from __future__ import annotations

import contextlib
import fcntl
import tempfile
import time
from pathlib import Path
from tempfile import _TemporaryFileWrapper
from typing import TYPE_CHECKING

from backend.errors import WorkerError
from backend.fetching.download import Limits as FetchLimits
from backend.fetching.pictures import PictureStore
from backend.settings import Settings

if TYPE_CHECKING:
    from model import Video

_PREFIX = "pallas-video-"
_YOUNG_S = 60.0  # younger files are let alone: who made one may be about to lock it


def fetch(pictures: PictureStore, address: str, settings: Settings) -> _TemporaryFileWrapper[bytes]:
    """A file with the video; it is gone once it is closed.

    Raises:
        WorkerError: the disk has no room. Besides, what `PictureStore.copy` raises.
    """
    remove_dead()
    try:
        file = tempfile.NamedTemporaryFile(prefix=_PREFIX)  # noqa: SIM115  # who asked closes it
        with contextlib.suppress(OSError):  # a file system without locks: its files are never taken for dead
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        pictures.copy(
            address,
            file,  # type: ignore[arg-type]  # a wrapper of an open file
            FetchLimits(settings.max_video_bytes, settings.video_fetch_timeout_s, "video"),
        )
        file.flush()
    except OSError as error:
        raise WorkerError(
            f"the video cannot be kept on the worker's disk ({error.strerror}): free some space in "
            f"{tempfile.gettempdir()}, or set TMPDIR"
        ) from None
    return file


def remove_dead() -> None:
    """Remove the videos of processes that were killed: nobody holds the lock on them any more."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        # another's, or gone meanwhile
        with contextlib.suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.stat().st_mtime < time.time() - _YOUNG_S:
                path.unlink()


def opened(path: Path, settings: Settings) -> Video:
    """The video in a file, within the settings' limits. Raises model's VideoError."""
    from model import Limits, open_video

    limits = Limits(
        settings.max_video_frames, settings.max_video_seconds, settings.max_video_bytes, settings.max_picture_pixels
    )
    return open_video(path, limits)
