"""Videos in bulk jobs, and what is delivered later: one job a clip, its progress, a click in between."""

from __future__ import annotations

import base64
import io
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
from PIL import Image

from backend.bulk.ledger import RUNNING
from backend.bulk.progress import Status
from backend.queueing.connection import connect
from backend.worker.video_checkpoint import Checkpoints
from benchmarks.stand_in import TOKEN, StandIn, run_stand_in
from tests.bulk.conftest import environment
from tests.bulk.test_project import begin
from tests.conftest import PICTURES
from tests.http.stack import CONFIG as PICTURE_CONFIG
from tests.http.stack import Stack, point, run_stack, slow_worker
from tests.http.test_video import CONFIG, SQUARE, drawn
from tests.videos import picture, write
from tests.waiting import wait_until

CLIP = "/data/upload/1/long.mp4"
FRAMES = 30


@pytest.fixture(scope="module")
def label_studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    folder = tmp_path_factory.mktemp("videos")
    write(folder / "long.mp4", [picture(i) for i in range(FRAMES)])
    (folder / "coffee.jpg").write_bytes((PICTURES / "coffee.jpg").read_bytes())
    with run_stand_in(CONFIG, folder) as running:
        yield running


@pytest.fixture(scope="module")
def hold(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As long as this file is there, videos stand still in their midst."""
    return tmp_path_factory.mktemp("hold") / "hold"


@pytest.fixture(scope="module")
def stack(
    label_studio: StandIn, hold: Path, small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    own = {"LABEL_STUDIO_URL": label_studio.url, "LABEL_STUDIO_API_KEY": TOKEN, "PALLAS_MAX_NEW_TOKENS": "4"}
    own |= {"PALLAS_VIDEO_FRAME_RATE": "25", "PALLAS_VIDEO_SLICE_S": "0.5", "PALLAS_BATCH_WAIT_S": "1.5"}
    folder = tmp_path_factory.mktemp("stack")
    with (
        run_stack(folder, small_checkpoint, "--workers", "0", **own) as running,
        slow_worker(running, hold=hold, after=FRAMES // 2),
    ):
        yield running


@pytest.fixture(autouse=True)
def empty(label_studio: StandIn) -> None:
    label_studio.clear()


def ask(stack: Stack, label_studio: StandIn, context: list[dict[str, Any]] | None = None) -> Any:
    params = {"context": None if context is None else {"result": context}}
    tasks = list(label_studio.tasks.values())
    body = {"tasks": tasks, "project": "1.1795338314", "label_config": CONFIG, "params": params}
    answer = stack.post("/predict", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_whole_takes_the_place_of_what_was_answered_in_time(
    stack: Stack, label_studio: StandIn, hold: Path
) -> None:
    hold.touch()
    task = label_studio.add({"video": CLIP}, drawn(SQUARE))
    # the more often, the slower the machine: each time it goes on where it was
    answer = wait_until(lambda: (found := ask(stack, label_studio))["results"][0] and found, 600)
    (partly,) = answer["results"]
    version = stack.wait_for_worker().model_version
    assert answer["late"] == [task] and partly["model_version"].startswith(f"{version} (so far,")
    label_studio.store(partly | {"task": task})
    hold.unlink()
    wait_until(lambda: label_studio.counts(version)[task] == 1)
    wait_until(lambda: len(label_studio.predictions[task]) == 1)
    (whole,) = label_studio.predictions[task]
    box, before = whole["result"][0], partly["result"][0]
    assert box["type"] == before["type"] == "videorectangle"
    assert box["value"]["sequence"][-1]["frame"] == FRAMES > before["value"]["sequence"][-1]["frame"]


def test_a_relabelled_box_comes_later_as_a_prediction(stack: Stack, label_studio: StandIn) -> None:
    task = label_studio.add({"video": CLIP})
    assert ask(stack, label_studio, [drawn(SQUARE)])["results"][0]["result"] == []
    wait_until(lambda: label_studio.counts()[task] == 1)
    assert label_studio.predictions[task][0]["result"][0]["type"] == "videorectangle"
    # the same box again, once it is known as ours, asks for nothing
    ours = label_studio.predictions[task][0]["result"][0] | {"origin": "manual"}
    assert ask(stack, label_studio, [ours])["results"][0]["result"] == []
    time.sleep(1)
    assert label_studio.counts()[task] == 1


def test_a_bulk_job_has_one_job_a_clip_and_lets_clicks_pass(
    stack: Stack, label_studio: StandIn, hold: Path, tmp_path: Path
) -> None:
    hold.touch()
    # boxes of their own, or the answers of the tests before would do
    for x in (10.0, 14.0):
        label_studio.add({"video": CLIP}, drawn({11: (x, 33.0, 25.0, 33.5)}))
    report = tmp_path / "report.html"
    command = [sys.executable, "-m", "backend", "bulk", "--project", "1", "--report", str(report)]
    process = subprocess.Popen(
        command, env=environment(stack, label_studio), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        wait_until(lambda: label_studio.asked[f"GET {CLIP}"] > 0)
        click = stack.predict("/data/upload/1/coffee.jpg", [point(40, 40)], PICTURE_CONFIG)
        assert click.status_code == 200 and click.json()["results"][0]["result"]
        # the click did not wait for the clips
        assert process.poll() is None and not label_studio.counts()
        hold.unlink()
        out, _ = process.communicate(timeout=600)
    finally:
        process.kill()
    assert process.returncode == 0, out
    assert "2 tasks predicted with 2 regions" in out
    assert label_studio.counts(stack.wait_for_worker().model_version) == {1: 1, 2: 1}
    # a clip is fetched once, however many slices its work had, and once more for the report
    assert label_studio.asked[f"GET {CLIP}"] == 2 + 2
    drawings = re.findall(r"data:image/jpeg;base64,([^\"]+)", report.read_text())
    sheets = [Image.open(io.BytesIO(base64.b64decode(drawing))) for drawing in drawings]
    assert [sheet.width for sheet in sheets] == [420, 420]


def test_progress_counts_what_is_under_way() -> None:
    status = Status(RUNNING, 4, 1, 0, 0, 0, 0.1, 0, "", under_way=1.4)
    assert "1 of 4 done, 1.4 more under way, 0 failed" in status.line()
    assert "under way" not in replace(status, under_way=0.0).line()


def test_a_clip_goes_on_after_its_worker_was_killed(
    label_studio: StandIn, small_checkpoint: Path, tmp_path: Path
) -> None:
    """In the middle of a clip: what was tracked before is not tracked again, and the answer is whole."""
    label_studio.add({"video": CLIP}, drawn({11: (11.0, 33.0, 25.0, 33.5)}))
    own = {"LABEL_STUDIO_URL": label_studio.url, "LABEL_STUDIO_API_KEY": TOKEN, "PALLAS_MAX_NEW_TOKENS": "4"}
    own |= {"PALLAS_VIDEO_FRAME_RATE": "25", "PALLAS_VIDEO_SLICE_S": "0.5", "PALLAS_VIDEO_CHECKPOINT_S": "0.3"}
    hold = tmp_path / "hold"
    hold.touch()
    with run_stack(tmp_path, small_checkpoint, "--workers", "0", **own) as stack:
        client = connect(stack.settings)
        with slow_worker(stack, hold=hold, after=FRAMES * 2 // 3) as worker:
            version = stack.wait_for_worker().model_version
            process, _ = begin(stack, label_studio)
            wait_until(lambda: steps(client) > 15)
            worker.kill()
            worker.wait()
            known = steps(client)
            assert 15 < known < FRAMES
        try:
            with slow_worker(stack):
                out, _ = process.communicate(timeout=600)
        finally:
            process.kill()
        assert process.returncode == 0, out
        told = stack.log.read_text()
        assert f"a video is taken up again: {known} of {FRAMES} frames are tracked already" in told
        assert f"a video is tracked: {FRAMES - known} frames here, {known} before" in told
        assert "begun anew" not in told
        assert label_studio.counts(version) == {1: 1} and label_studio.asked[f"GET {CLIP}"] == 2
        box = next(i for i in label_studio.predictions[1][0]["result"] if i["type"] == "videorectangle")
        frames = [keyframe["frame"] for keyframe in box["value"]["sequence"]]
        assert frames[0] == 1 and frames[-1] == FRAMES and frames == sorted(set(frames))
        # nothing stays behind
        assert list(client.scan_iter("pallas:clip:*")) == []


def steps(client: redis.Redis) -> int:
    """Frames that the one checkpoint knows."""
    keys = list(client.scan_iter("pallas:clip:*"))
    found = Checkpoints(client).get(keys[0].decode().removeprefix("pallas:clip:")) if keys else None
    return found.steps if found is not None else 0
