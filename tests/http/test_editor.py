"""The Enterprise editor's interactive video protocol, with requests as HumanSignal's example backend takes them.

There is no Enterprise here: what its editor does with the answers was not tried.
"""

from __future__ import annotations

import base64
import os
import signal
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backend.queueing.connection import connect
from backend.queueing.dispatcher import Dispatcher
from tests.http.stack import PictureHost, Stack, run_host, run_stack
from tests.videos import picture, write
from tests.waiting import HANG_S, wait_until

TAGS = {
    "box": '<VideoRectangle name="box" toName="video"/>',
    "outline": '<VideoVectorLabels name="outline" toName="video"><Label value="a"/></VideoVectorLabels>',
    "mask": '<BitmaskLabels name="mask" toName="video"><Label value="a"/></BitmaskLabels>',
}
RATE, FRAMES = 25, 30


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PictureHost]:
    folder = tmp_path_factory.mktemp("videos")
    write(folder / "clip.mp4", [picture(i) for i in range(FRAMES)])
    with run_host(folder) as running:
        yield running


@pytest.fixture(scope="module")
def stack(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with run_stack(tmp_path_factory.mktemp("stack"), small_checkpoint, "--workers", "2") as running:
        running.wait_for_worker()
        yield running


def quiet(stack: Stack) -> None:
    """Wait until nothing is in the queues or under way."""
    client = connect(stack.settings)

    def left() -> int:
        queues = sum(int(client.llen(key)) for key in client.scan_iter("rq:queue:*"))
        return queues + sum(int(client.zcard(key)) for key in client.scan_iter("rq:wip:*"))

    wait_until(lambda: left() == 0)


class Editor:
    """Sends one task's events."""

    def __init__(self, stack: Stack, video: str) -> None:
        self.stack, self.video = stack, video

    def ask(self, event: str | None = None, control: str = "box", **context: Any) -> dict[str, Any]:
        """The one item of the answer; empty where there is none."""
        body = {
            "tasks": [{"id": 5, "data": {"video": self.video}, "annotations": [], "predictions": []}],
            "project": "1.1700000000",
            "label_config": f'<View><Video name="video" value="$video" frameRate="{RATE}"/>'
            f'<Labels name="l" toName="video"><Label value="a"/></Labels>{TAGS[control]}</View>',
            "params": {"context": context | ({"event": event} if event is not None else {})},
        }
        answer = self.stack.post("/predict", json=body)
        assert answer.status_code == 200, answer.text
        (found,) = answer.json()["results"]
        items = found["result"]
        assert len(items) <= 1
        return items[0] if items else {}

    def value(self, event: str, **context: Any) -> dict[str, Any]:
        return self.ask(event, **context)["value"]

    def frames(self, session: str) -> list[dict[str, Any]]:
        """All frames of a session, as a client polls them."""
        found: list[dict[str, Any]] = []
        until = time.monotonic() + HANG_S
        while True:
            assert time.monotonic() < until, "it is never done"
            value = self.value("track_progress", session_id=session)
            assert value["error"] is None
            found += value["frames"]
            assert value["produced"] == len(found)
            if value["done"]:
                assert value["total"] == len(found)
                return found


@pytest.fixture
def editor(stack: Stack, videos: PictureHost) -> Editor:
    return Editor(stack, f"{videos.url}/clip.mp4")


def click(x: float, y: float, positive: bool = True) -> dict[str, Any]:
    return {"id": "k", "type": "keypointlabels", "value": {"x": x, "y": y, "positive": positive}}


BOX = {"id": "b", "type": "rectanglelabels", "value": {"x": 12.5, "y": 33.0, "width": 25.0, "height": 33.5}}


def mask_of(value: dict[str, Any]) -> np.ndarray:
    data = base64.b64decode(value["imageDataURL"].partition(",")[2])
    mask = np.asarray(Image.open(BytesIO(data)))[..., 3] > 0
    assert mask.shape == (value["height"], value["width"])
    return mask


def test_what_the_editor_may_ask_for(editor: Editor) -> None:
    item = editor.ask("capabilities")
    assert item["type"] == "capabilities" and item["value"]["prompts"] == ["point", "box"]
    tags = {target["tag"]: target for target in item["value"]["targets"]}
    assert tags["VideoRectangle"] == {"tag": "VideoRectangle", "output": "bbox", "features": ["track"]}
    assert set(item["value"]["model_info"]) == {"name", "version"}


def test_frames_are_at_hand_before_they_are_asked_for(editor: Editor) -> None:
    item = editor.ask("prewarm", frame=10, window=4, direction="forward")
    assert item["type"] == "prewarm_ack"
    assert item["value"] == {"status": "ok", "cached": [10, 11, 12, 13], "pending": [], "frame_count": FRAMES}
    assert editor.value("prewarm", frame=2, window=50, direction="backward")["cached"] == [1, 2]


def test_frames_are_encoded_before_they_are_asked_for(stack: Stack, videos: PictureHost) -> None:
    def total(what: str) -> float:
        return sum(worker.stats.get(what, 0.0) for worker in stack.workers())

    wait_until(lambda: len(stack.workers()) == 2 and {worker.state for worker in stack.workers()} == {"ready"})
    quiet(stack)  # what other tests left would end it early, or keep the worker that has the frames busy
    held = total("embedding_bytes")
    editor = Editor(stack, f"{videos.url}/clip.mp4?warm")  # nobody else's
    editor.value("prewarm", frame=20, window=3, direction="forward")
    wait_until(lambda: total("embedding_bytes") > held)
    dispatcher = Dispatcher(stack.settings)

    def free() -> None:
        """A worker that has just ended a job says so a moment later, and is not asked first until then."""
        quiet(stack)
        wait_until(lambda: dispatcher.holder(editor.video))

    free()
    hits = total("embedding_hits")
    # it goes to the worker that has them
    assert mask_of(editor.ask(control="mask", frame=21, result=[BOX])["value"]).any()
    wait_until(lambda: total("embedding_hits") >= hits + 1)
    # a frame that is prompted again is not encoded again
    free()
    editor.ask(control="mask", frame=25, result=[BOX])
    free()
    editor.ask(control="mask", frame=25, result=[BOX, click(25, 50)])
    wait_until(lambda: total("embedding_hits") >= hits + 2)


def test_prompts_on_a_frame_come_back_as_the_control_has_it(editor: Editor) -> None:
    masks = editor.ask(control="mask", frame=10, result=[BOX])
    mask = mask_of(masks["value"])
    assert (masks["type"], masks["from_name"], masks["to_name"]) == ("bitmasklabels", "mask", "video")
    boxed = editor.ask(control="box", frame=10, result=[BOX])
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    height, width = mask.shape
    assert boxed["type"] == "videorectangle" and boxed["value"]["rotation"] == 0
    assert boxed["value"]["x"] == pytest.approx(100 * columns[0] / width, abs=1e-3)
    assert boxed["value"]["height"] == pytest.approx(100 * (rows[-1] + 1 - rows[0]) / height, abs=1e-3)
    outline = editor.ask("predict", control="outline", frame=10, result=[BOX])
    assert outline["type"] == "videovectorlabels" and outline["value"]["closed"] and len(outline["value"]["points"]) > 2
    # a time beats a frame's number; frame 10 is shown from 9 / 25 s on
    assert editor.ask(control="mask", frame=1, time_ms=360, result=[BOX])["value"] == masks["value"]
    # "not this" lies in the value
    both = [click(25, 50), click(14, 35, False)]
    assert (
        editor.ask(control="mask", frame=10, result=both)["value"]
        != editor.ask(control="mask", frame=10, result=both[:1])["value"]
    )


def test_a_thing_is_tracked_and_its_frames_are_given_once(editor: Editor) -> None:
    session = editor.value("track", frame=11, direction="forward", max_frames=6, result=[BOX])["session_id"]
    found = editor.frames(session)
    assert found and [frame["frame"] for frame in found] == sorted({frame["frame"] for frame in found})
    assert all(10 <= frame["frame"] < 16 for frame in found)
    for frame in found:
        assert mask_of(frame).any() and frame["time_ms"] == pytest.approx(1000 * frame["frame"] / RATE, abs=1)
        assert frame["bbox"]["width"] > 0
    over = editor.value("track_progress", session_id=session)
    assert over["done"] and "no such session" in over["error"] and over["frames"] == []
    asked = {"direction": "backward", "max_duration_ms": 200, "control": "outline"}
    back = editor.frames(editor.value("track", frame=11, result=[BOX], **asked)["session_id"])
    assert all(6 <= frame["frame"] <= 10 and len(frame["points"]) > 2 for frame in back)


def test_a_correction_tracks_again_from_its_frame_alone(editor: Editor) -> None:
    first = editor.frames(
        editor.value("track", frame=1, direction="forward", max_frames=12, result=[BOX])["session_id"]
    )
    corrected = {**BOX, "value": {"x": 60, "y": 20, "width": 20, "height": 30}}
    session = editor.value("track", frame=7, direction="forward", max_frames=6, result=[corrected])["session_id"]
    again = editor.frames(session)
    assert first[0]["frame"] == 0 and min(frame["frame"] for frame in again) >= 6
    old = {frame["frame"]: frame["imageDataURL"] for frame in first}
    assert any(old.get(frame["frame"]) != frame["imageDataURL"] for frame in again)


def test_sessions_end_when_they_are_cancelled_or_the_task_is_left(editor: Editor) -> None:
    sessions = [editor.value("track", frame=frame, direction="both", result=[BOX])["session_id"] for frame in (3, 4, 5)]
    assert editor.ask("track_cancel", session_id=sessions[0]) | {"id": ""} == {
        **{"id": "", "from_name": "", "to_name": "", "type": "track_cancel_ack", "origin": "manual"},
        "value": {"status": "cancelled"},
    }
    assert editor.value("track_cancel", session_id=sessions[0]) == {"status": "not_found"}
    assert editor.ask("release")["type"] == "release_ack"
    for session in sessions:
        assert "no such session" in editor.value("track_progress", session_id=session)["error"]


def test_of_two_sessions_that_ask_the_same_one_may_be_cancelled(editor: Editor) -> None:
    asked = {"frame": 12, "direction": "forward", "max_frames": 5, "result": [BOX]}
    pids = [worker.pid for worker in editor.stack.workers()]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        first, second = (editor.value("track", **asked)["session_id"] for _ in range(2))
        assert editor.value("track_cancel", session_id=first) == {"status": "cancelled"}
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    assert editor.frames(second)


def test_what_is_wrong_is_said(editor: Editor, videos: PictureHost) -> None:
    gone = Editor(editor.stack, f"{videos.url}/gone.mp4")
    session = gone.value("track", frame=1, result=[BOX])["session_id"]
    value = gone.value("track_progress", session_id=session)
    assert value["done"] and "404" in value["error"]
    for context, says in (
        ({"event": "dance"}, "'dance' is not one of"),
        ({"event": "track", "frame": 1, "result": [click(5, 5, False)]}, "no click inside a thing"),
        ({"event": "track", "frame": 1, "max_duration_ms": -1}, "max_duration_ms"),
    ):
        body = {
            "tasks": [{"id": 5, "data": {"video": editor.video}}],
            "label_config": f'<View><Video name="video" value="$video"/>{TAGS["box"]}</View>',
            "params": {"context": context},
        }
        answer = editor.stack.post("/predict", json=body)
        assert answer.status_code in (400, 422) and says in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "context",
    [
        {"event": None, "frame": None, "time_ms": None},
        {"event": "prewarm", "frame": -5, "window": -1, "direction": "up"},
        {"event": "prewarm", "frame": 10**9, "window": 10**9},
        {"event": "track_progress"},
        {"event": "track_cancel", "session_id": "x\0" * 2000},
        {"event": "track", "time_ms": 1e300, "max_frames": -4, "result": [BOX]},
        {"frame": 3, "result": [{"type": "rectanglelabels", "value": {"x": 1}}]},
        {"frame": 3, "result": [{"type": "textarea", "value": {"text": ["a"]}}]},
        {"frame": 10**6, "result": [BOX]},
    ],
    ids=str,
)
def test_odd_requests_are_no_faults_of_ours(editor: Editor, context: dict[str, Any]) -> None:
    body = {
        "tasks": [{"id": 6, "data": {"video": editor.video}}],
        "label_config": f'<View><Video name="video" value="$video"/>{TAGS["box"]}</View>',
        "params": {"context": context},
    }
    answer = editor.stack.post("/predict", json=body)
    assert answer.status_code < 500, answer.text
