from __future__ import annotations

from pathlib import Path

import pytest
import redis

from backend.bulk.local import LocalPictures
from backend.errors import PictureTooLarge
from backend.job import ClipAsk
from backend.labeling.video_roles import VideoRoles
from backend.settings import Settings
from backend.tasks.video_plan import ClipPlan


def test_a_video_has_the_limit_of_videos(client: redis.Redis, tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(bytes(2000))
    plan = ClipPlan(video=VideoRoles("v", "v"), picture="clip.mp4", rate=25, ask=ClipAsk())
    settings = Settings(max_picture_bytes=1000, max_video_bytes=2000)
    local = LocalPictures(settings, client, tmp_path)
    parked = local.park(plan)
    assert parked.picture.startswith("blob:")
    local.release(parked)
    (tmp_path / "clip.mp4").write_bytes(bytes(2001))
    with pytest.raises(PictureTooLarge, match="2,000 bytes"):
        local.park(plan)
