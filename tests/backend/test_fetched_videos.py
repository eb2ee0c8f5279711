"""Videos that workers keep on the disk while they read them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import redis

from backend.fetching.pictures import PictureStore
from backend.fetching.videos import fetch, remove_dead
from backend.settings import Settings

HOLD = """
import sys, time
from backend.fetching.pictures import PictureStore
from backend.fetching.videos import fetch
from backend.settings import Settings
settings = Settings(local_roots=[sys.argv[1]])
file = fetch(PictureStore(settings, None), sys.argv[1] + "/clip.mp4", settings)
print(file.name, flush=True)
time.sleep(600)
"""


def test_a_killed_workers_video_goes_from_the_disk_and_a_living_ones_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client: redis.Redis
) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"a clip")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    worker = subprocess.Popen(command, env=os.environ | {"TMPDIR": str(scratch)}, stdout=subprocess.PIPE, text=True)
    try:
        assert worker.stdout is not None
        theirs = Path(worker.stdout.readline().strip())
        old = time.time() - 3600
        os.utime(theirs, (old, old))
        settings = Settings(local_roots=[tmp_path])
        with fetch(PictureStore(settings, client), f"{tmp_path}/clip.mp4", settings) as file:
            assert theirs.read_bytes() == Path(file.name).read_bytes() == b"a clip"
        assert list(scratch.iterdir()) == [theirs]
    finally:
        worker.kill()
        worker.wait()
    remove_dead()
    assert not list(scratch.iterdir())


def test_what_was_made_just_now_is_let_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever made it may not have locked it yet; and other programs' files are none of ours."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("pallas-video-new", "pallas-video-old", "another-old"):
        (tmp_path / name).touch()
        if name.endswith("old"):
            os.utime(tmp_path / name, (1, 1))
    remove_dead()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["another-old", "pallas-video-new"]
