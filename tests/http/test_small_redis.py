"""A Redis with little memory: a bulk job over a folder takes its share of it, and clicks go on."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import redis
from PIL import Image

from tests.conftest import PICTURES
from tests.http.stack import CONFIG, PictureHost, data_url, point, run_stack
from tests.http.test_faults import free_port, redis_server
from tests.waiting import HANG_S

COUNT = 16
MEGABYTES = 24
WHOLE = CONFIG.replace("<View>", '<View><TextArea name="all" toName="image" pallas="brief"/>', 1)


def noise(seed: int) -> bytes:
    """Three megabytes that do not get smaller."""
    pixels = np.random.default_rng(seed).integers(0, 256, (1000, 1000, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", compress_level=0)
    return out.getvalue()


def test_clicks_work_while_bulk_fills_its_share(small_checkpoint: Path, tmp_path: Path, host: PictureHost) -> None:
    (tmp_path / "pictures").mkdir()
    for number in range(COUNT):
        (tmp_path / "pictures" / f"{number:02}.png").write_bytes(noise(number))
    (tmp_path / "config.xml").write_text(WHOLE)
    port = free_port()
    server = redis_server(port, tmp_path / "redis")
    process: subprocess.Popen[str] | None = None
    try:
        admin = redis.Redis(port=port, password="sesame")
        admin.config_set("maxmemory-policy", "noeviction")
        own = {
            "REDIS_URL": f"redis://:sesame@127.0.0.1:{port}/0",
            "PALLAS_MAX_NEW_TOKENS": "4",
            "PALLAS_PICTURE_QUEUE_BYTES": str(7 << 20),
            # so that it is said at once, not done after a while
            "PALLAS_BULK_TRIES": "1",
        }
        with run_stack(tmp_path, small_checkpoint, **own) as stack:
            stack.wait_for_worker()
            admin.config_set("maxmemory", str(MEGABYTES << 20))
            command = [sys.executable, "-m", "backend", "bulk", "--input", str(tmp_path / "pictures")]
            process = subprocess.Popen(
                [*command, "--output", str(tmp_path / "out.json"), "--config", str(tmp_path / "config.xml")],
                env={**environment(), **own, "PALLAS_STATE_DIR": str(tmp_path / "state")},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            clicks, most = 0, 0
            inside = data_url((PICTURES / "coffee.jpg").read_bytes(), "image/jpeg")
            while process.poll() is None or not clicks:
                for picture in (f"{host.url}/coffee.jpg", inside):
                    answer = stack.predict(picture, [point(50, 50)])
                    assert answer.status_code == 200, answer.text
                    clicks += 1
                most = max(most, sum(admin.strlen(key) for key in admin.scan_iter("pallas:blob:*")))
            said = process.communicate(timeout=HANG_S)[0]
            assert process.returncode == 0, said
            assert f"{COUNT} tasks predicted" in said
            # its share was used, and no more
            assert 3 << 20 < most < 8 << 20
            found = json.loads((tmp_path / "out.json").read_text())
            assert all(len(task["predictions"]) == 1 for task in found) and len(found) == COUNT
            assert admin.zcard("pallas:blobs:bulk") == 0
    finally:
        if process is not None:
            process.kill()
        server.terminate()
        server.wait(HANG_S)


def environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith(("PALLAS_", "REDIS_", "LABEL_STUDIO_"))}
