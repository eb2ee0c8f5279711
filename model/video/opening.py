"""Opening a video wherever it is: a file, a folder, a list of pictures."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from model.errors import VideoError
from model.values.image import FORMATS
from model.video.source import ORDINARY, Limits, Picture, Pictures, Video, check

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


def open_video(source: str | Path | Video | Sequence[Picture], limits: Limits = ORDINARY) -> Video:
    """A video from wherever it is.

    Args:
        source: a file (MP4, WebM, Matroska, AVI, MPEG, OGG …), a folder of pictures (in the order of their numbers and
            names), a list of pictures, or a video.
        limits: what it may measure.

    Raises:
        VideoTooLargeError: longer, larger or of more frames than the limits.
        VideoError: not a video, without frames, damaged.
        FileNotFoundError: there is no such file.
    """
    if isinstance(source, Video):
        return source
    if not isinstance(source, str | Path):
        video: Video = Pictures(source)
    elif (path := Path(source)).is_dir():
        files = sorted((f for f in path.iterdir() if f.suffix.lower() in PICTURE_SUFFIXES), key=_natural)
        if not files:
            raise VideoError(f"the folder {path} holds no pictures: give a folder of frames, or a video file")
        video = Pictures(files)
    else:
        # late: who only lists pictures need not load ffmpeg
        from model.video.file import VideoFile

        return VideoFile(path, limits)
    check(limits, frames=video.frame_count, pixels=video.width * video.height)
    return video


def is_video(path: Path) -> bool:
    """Whether a path is to be opened as a video: a folder, or a file that is no picture by its first bytes."""
    if path.is_dir():
        return True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS):
                return False
    except Image.DecompressionBombError:
        return False
    except OSError:
        return path.is_file()


def _natural(path: Path) -> list[int | str]:
    """Sorts frame_9 before frame_10: text and numbers alternate."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path.name)]
