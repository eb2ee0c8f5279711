"""Files of a bulk job's input: a tasks.json that somebody else wrote reads nothing outside its own folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import redis

from backend.bulk.local import LocalPictures
from backend.errors import BadRequest, PictureForbidden, PictureNotFound, PictureTooLarge
from backend.job import ClipAsk
from backend.labeling.roles import read_roles
from backend.labeling.video_roles import VideoRoles
from backend.queueing.blobs import KEY, read_blob
from backend.settings import Settings
from backend.tasks.plan import PicturePlan
from backend.tasks.video_plan import ClipPlan
from tests.http.stack import CONFIG

IMAGE = read_roles(CONFIG).images["image"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An input's folder, beside which somebody else's picture lies."""
    (tmp_path / "input" / "sub").mkdir(parents=True)
    (tmp_path / "input" / "own.png").write_bytes(b"own")
    (tmp_path / "input" / "sub" / "ü %41.png").write_bytes(b"deep")
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "input" / "link.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "input" / "inside.png").symlink_to(tmp_path / "input" / "own.png")
    (tmp_path / "input" / "out").symlink_to(tmp_path)
    return tmp_path / "input"


def park(client: redis.Redis, folder: Path, reference: str, **settings: Any) -> str:
    """What the worker is told; the blob's bytes where there is one."""
    local = LocalPictures(Settings(**settings), client, folder)
    (parked,) = local.park("1", [PicturePlan(IMAGE, reference)])
    if not parked.picture.startswith("blob:"):
        return parked.picture
    data = read_blob(client, parked.picture.removeprefix("blob:"))
    local.release("1")
    assert data is not None
    return data.decode()


def test_what_lies_below_the_inputs_folder_is_read(client: redis.Redis, folder: Path) -> None:
    for reference in ("own.png", "sub/../own.png", "inside.png", f"{folder}/own.png", f"file://{folder}/own.png"):
        assert park(client, folder, reference) == "own", reference
    assert park(client, folder, "sub/ü %41.png") == park(client, folder, "file:sub/%C3%BC%20%2541.png") == "deep"


OUTSIDE = (
    *("../secret.png", "sub/../../secret.png", "file:../secret.png", "file:%2e%2e/secret.png", "link.png"),
    *("out/secret.png", "../none.png", "out/none.png"),
)


@pytest.mark.parametrize("reference", OUTSIDE)
def test_what_lies_outside_is_not(client: redis.Redis, folder: Path, reference: str) -> None:
    before = set(client.scan_iter(f"{KEY}*"))
    with pytest.raises(PictureForbidden, match="PALLAS_LOCAL_ROOTS"):
        park(client, folder, reference)
    assert set(client.scan_iter(f"{KEY}*")) == before


def test_absolute_paths_outside_are_for_the_worker_to_judge(client: redis.Redis, folder: Path) -> None:
    for path in (*(f"{folder}/{name}" for name in ("../secret.png", "link.png", "none.png")), "/data/upload/1.png"):
        for reference in (path, f"file://{path}"):
            assert park(client, folder, reference) == reference


def test_roots_open_more(client: redis.Redis, folder: Path) -> None:
    for reference in ("../secret.png", "link.png", str(folder.parent / "secret.png")):
        assert park(client, folder, reference, local_roots=str(folder.parent)) == "secret"


def test_what_is_no_file(client: redis.Redis, folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    for reference in ("none.png", "pipe", "sub", "x" * 5000):
        with pytest.raises(PictureNotFound, match=r"this machine|not a file"):
            park(client, folder, reference)
    for reference in ("file://[", "a\0b"):
        with pytest.raises((BadRequest, PictureNotFound)):
            park(client, folder, reference)
    for reference in ("https://example.org/a.png", "s3://bucket/a.png", "data:image/png;base64,AAAA"):
        assert park(client, folder, reference) == reference


def test_a_video_has_the_limit_of_videos(client: redis.Redis, tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(bytes(2000))
    plan = ClipPlan(video=VideoRoles("v", "v"), picture="clip.mp4", rate=25, ask=ClipAsk())
    settings = Settings(max_picture_bytes=1000, max_video_bytes=2000)
    local = LocalPictures(settings, client, tmp_path)
    (parked,) = local.park("1", [plan])
    assert parked.picture.startswith("blob:")
    local.release("1")
    (tmp_path / "clip.mp4").write_bytes(bytes(2001))
    with pytest.raises(PictureTooLarge, match="2,000 bytes"):
        local.park("1", [plan])
