"""What the contact sheet of a bulk job shows."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backend.bulk.drawing import WIDTH, draw_picture, draw_video, is_video
from backend.errors import PictureError
from backend.settings import Settings
from model.errors import VideoError
from tests.videos import write

RED = (230, 25, 75)
FRAMES, RATE = 61, 25


def _keyframe(frame: int, x: float, enabled: bool = True) -> dict[str, Any]:
    box = {"x": x, "y": 40.0, "width": 20.0, "height": 40.0}
    return {"frame": frame, "enabled": enabled, "rotation": 0, "time": frame / RATE, **box}


def _item(*sequence: dict[str, Any]) -> dict[str, Any]:
    value = {"sequence": list(sequence), "labels": ["cup"], "framesCount": FRAMES, "duration": FRAMES / RATE}
    return {"id": "a", "type": "videorectangle", "from_name": "box", "to_name": "video", "value": value}


@pytest.fixture
def video(tmp_path: Path) -> Path:
    write(tmp_path / "grey.mp4", [Image.new("RGB", (160, 120), (128, 128, 128))] * FRAMES)
    return tmp_path / "grey.mp4"


def _red(image: str) -> list[tuple[int, int] | None]:
    """First and last red column of each of the four frames, percentages; None where there is none."""
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(image))).convert("RGB"), int)
    mask = np.abs(sheet - RED).max(2) < 60
    found: list[tuple[int, int] | None] = []
    for half in np.array_split(mask, 2):
        for part in np.array_split(half, 2, axis=1):
            columns = np.flatnonzero(part.any(0)) * 100 // part.shape[1]
            found.append((int(columns[0]), int(columns[-1])) if len(columns) else None)
    return found


def test_a_box_is_followed_over_frames(video: Path) -> None:
    result = [_item(_keyframe(1, 10.0), _keyframe(61, 70.0))]
    assert is_video(result)
    image, words = draw_video(video, result, Settings())
    found = _red(image)
    assert words == (("#e6194b", "cup"),)
    for span, x in zip(found, (10, 30, 50, 70), strict=True):
        assert span is not None
        assert abs(span[0] - x) <= 2 and abs(span[1] - (x + 20)) <= 2
    assert Image.open(io.BytesIO(base64.b64decode(image))).size == (WIDTH, 2 * 158)


def test_nothing_is_drawn_where_the_thing_is_gone(video: Path) -> None:
    gone = [_item(_keyframe(1, 10.0), _keyframe(20, 10.0, enabled=False), _keyframe(61, 10.0))]
    found = _red(draw_video(video, gone, Settings())[0])
    assert [span is not None for span in found] == [True, False, False, True]


def test_what_is_no_video_says_so(tmp_path: Path) -> None:
    (tmp_path / "no.mp4").write_bytes(b"nothing of a video")
    with pytest.raises(VideoError):
        draw_video(tmp_path / "no.mp4", [_item(_keyframe(1, 10.0))], Settings())


def test_a_picture_is_drawn_as_the_model_sees_it() -> None:
    """Of twelve bits in sixteen, it is not white."""
    file = io.BytesIO()
    Image.fromarray(np.tile(np.linspace(0, 4095, 100), (50, 1)).astype(np.uint16)).save(file, "TIFF")
    drawn, _ = draw_picture(file.getvalue(), [], 10**6)
    row = np.asarray(Image.open(io.BytesIO(base64.b64decode(drawn))).convert("L"), int)[10]
    assert row[5] < 20 and 110 < row[WIDTH // 2] < 145 and row[-5] > 235
    for broken, most in ((b"no picture", 10**6), (file.getvalue(), 10)):
        with pytest.raises(PictureError, match="cannot be shown"):
            draw_picture(broken, [], most)
