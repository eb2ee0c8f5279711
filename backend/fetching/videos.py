"""A task's video as a file of its own on this machine, and how large it may be."""

from __future__ import annotations

import tempfile
from pathlib import Path
from tempfile import _TemporaryFileWrapper
from typing import TYPE_CHECKING

from backend.errors import WorkerError
from backend.fetching.download import Limits as FetchLimits
from backend.fetching.pictures import PictureStore
from backend.settings import Settings

if TYPE_CHECKING:
    from model import Video


def fetch(pictures: PictureStore, address: str, settings: Settings) -> _TemporaryFileWrapper[bytes]:
    """A file with the video; it is gone once it is closed.

    Raises:
        WorkerError: the disk has no room. Besides, what `PictureStore.copy` raises.
    """
    try:
        file = tempfile.NamedTemporaryFile(prefix="pallas-video-")  # noqa: SIM115  # who asked closes it
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


def opened(path: Path, settings: Settings) -> Video:
    """The video in a file, within the settings' limits. Raises model's VideoError."""
    from model import Limits, open_video

    limits = Limits(
        settings.max_video_frames, settings.max_video_seconds, settings.max_video_bytes, settings.max_picture_pixels
    )
    return open_video(path, limits)
