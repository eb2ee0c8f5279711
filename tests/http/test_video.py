"""Videos through the whole stack: boxes that a person drew come back as tracked sequences, words and events."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.http.stack import PictureHost, Stack, run_host, run_stack, slow_worker
from tests.http.test_batch import ask
from tests.videos import picture, write
from tests.waiting import wait_until

CONFIG = """<View>
  <Video name="video" value="$video" framerate="25"/>
  <Labels name="what" toName="video"><Label value="cat"/><Label value="dog"/></Labels>
  <VideoRectangle name="box" toName="video"/>
  <TimelineLabels name="events" toName="video"><Label value="event"/></TimelineLabels>
  <Choices name="kind" toName="video" perRegion="true"><Choice value="animal"/><Choice value="thing"/></Choices>
  <TextArea name="caption" toName="video" perRegion="true"/>
  <TextArea name="story" toName="video"/>
</View>"""


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PictureHost]:
    folder = tmp_path_factory.mktemp("videos")
    write(folder / "clip.mp4", [picture(i) for i in range(50)])
    write(folder / "long.mp4", [picture(i % 60) for i in range(500)])
    (folder / "broken.mp4").write_bytes(b"no video" * 50)
    with run_host(folder) as running:
        yield running


@pytest.fixture(scope="module")
def stack(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with run_stack(
        tmp_path_factory.mktemp("stack"), small_checkpoint, PALLAS_MAX_NEW_TOKENS="4", PALLAS_MAX_VIDEO_SECONDS="30"
    ) as running:
        running.wait_for_worker()
        yield running


def drawn(frames: dict[int, tuple[float, float, float, float]], name: str = "mine", **more: Any) -> dict[str, Any]:
    keys = ("x", "y", "width", "height")
    sequence = [
        {"frame": frame, "enabled": True, "rotation": 0, **dict(zip(keys, box, strict=True)), "time": frame / 25}
        for frame, box in frames.items()
    ]
    value = {"framesCount": 50, "duration": 2, "sequence": sequence, "labels": ["cat"]}
    item = {"id": name, "from_name": "box", "to_name": "video", "type": "videorectangle", "origin": "manual"}
    return item | {"value": value} | more


def task(number: int, video: str, *result: dict[str, Any]) -> dict[str, Any]:
    annotations = [{"id": number, "result": list(result), "updated_at": "2026-11-23T10:00:00Z"}] if result else []
    return {"id": number, "data": {"video": video}, "annotations": annotations, "predictions": []}


SQUARE = {11: (12.5, 33.0, 25.0, 33.5)}


def test_a_box_on_one_frame_is_tracked_named_and_captioned(stack: Stack, videos: PictureHost) -> None:
    stack_task = task(1, f"{videos.url}/clip.mp4", drawn(SQUARE), drawn({1: (5, 5, 20, 20)}, "other"))
    (found,) = ask(stack, [stack_task], CONFIG)
    assert found["model_version"] == stack.wait_for_worker().model_version and 0 <= found["score"] <= 1
    by_id: dict[str, list[dict[str, Any]]] = {}
    for item in found["result"]:
        assert item["to_name"] == "video" and "original_width" not in item and item["origin"] == "prediction"
        by_id.setdefault(item["id"], []).append(item)
    tracked = [items for items in by_id.values() if items[0]["type"] == "videorectangle"]
    assert len(tracked) == 2 and "mine" not in by_id
    for geometry, *words in tracked:
        value = geometry["value"]
        assert (value["framesCount"], value["duration"], value["labels"]) == (50, 2.0, ["cat"])
        frames = [keyframe["frame"] for keyframe in value["sequence"]]
        assert frames == sorted(set(frames)) and frames[0] >= 1 and frames[-1] <= 50
        for keyframe in value["sequence"]:
            assert keyframe["time"] == pytest.approx(keyframe["frame"] / 25)
            assert 0 <= keyframe["x"] <= keyframe["x"] + keyframe["width"] <= 100.01
        assert {word["type"] for word in words} <= {"choices", "textarea"} and words
    for items in by_id.values():
        if items[0]["type"] == "timelinelabels":
            (span,) = items[0]["value"]["ranges"]
            assert 1 <= span["start"] <= span["end"] <= 50 and items[0]["value"]["timelinelabels"] == ["event"]
    stories = [item for item in found["result"] if item["from_name"] == "story"]
    assert len(stories) == 1 and stories[0]["value"]["text"][0]


def test_what_was_tracked_is_not_tracked_again(stack: Stack, videos: PictureHost) -> None:
    done = drawn(SQUARE, origin="prediction")
    story = {"id": "s", "from_name": "story", "to_name": "video", "type": "textarea", "value": {"text": ["said"]}}
    assert ask(stack, [task(2, f"{videos.url}/clip.mp4", done, story)], CONFIG) == [[]]
    # nobody marked anything: only the whole video's text is missing
    (found,) = ask(stack, [task(3, f"{videos.url}/clip.mp4")], CONFIG)
    assert [item["from_name"] for item in found["result"]] == ["story"]


def test_a_corrected_track_goes_on_from_the_correction(stack: Stack, videos: PictureHost) -> None:
    (found,) = ask(stack, [task(8, f"{videos.url}/clip.mp4", drawn(SQUARE))], CONFIG)
    sequence = next(item for item in found["result"] if item["type"] == "videorectangle")["value"]["sequence"]
    own = {
        "frame": 31,
        "enabled": True,
        "rotation": 0,
        "x": 40.0,
        "y": 30.0,
        "width": 25.0,
        "height": 33.5,
        "time": 1.24,
    }
    before = [keyframe for keyframe in sequence if keyframe["frame"] < 31]
    after = [keyframe for keyframe in sequence if keyframe["frame"] > 31]
    kept = [dict(item) for item in found["result"]]
    for item in kept:
        if item["type"] == "videorectangle":
            item["value"] = item["value"] | {"sequence": [*before, own, *after]}
    (again,) = ask(stack, [task(8, f"{videos.url}/clip.mp4", *kept)], CONFIG)
    tracked = next(item for item in again["result"] if item["type"] == "videorectangle")["value"]["sequence"]
    assert tracked[: len(before) + 1] == [*before, own] and tracked[-1]["frame"] > 31
    others = [item["value"] for item in again["result"] if item["type"] == "timelinelabels"]
    assert others == [item["value"] for item in found["result"] if item["type"] == "timelinelabels"]
    # what nobody corrected is not tracked again
    assert ask(stack, [task(8, f"{videos.url}/clip.mp4", *found["result"])], CONFIG) == [[]]


def test_an_interactive_request_gets_nothing_to_insert(stack: Stack, videos: PictureHost) -> None:
    for context in ([drawn(SQUARE)], []):
        body = {
            "tasks": [task(4, f"{videos.url}/clip.mp4")],
            "project": "1.1700000000",
            "label_config": CONFIG,
            "params": {"context": {"result": context}},
        }
        answer = stack.post("/predict", json=body)
        assert answer.status_code == 200 and answer.json()["results"][0]["result"] == []


@pytest.mark.parametrize(
    ("name", "region", "says"),
    [
        ("broken.mp4", drawn(SQUARE), "not a video of a known format"),
        ("gone.mp4", drawn(SQUARE), "404: the video is not there"),
        ("clip.mp4", drawn({900: (1, 1, 9, 9)}), "35.96 s of a video of 2.00 s: is the frameRate"),
    ],
)
def test_faults_are_said(stack: Stack, videos: PictureHost, name: str, region: dict[str, Any], says: str) -> None:
    body = {
        "tasks": [task(5, f"{videos.url}/{name}", region)],
        "project": "1.1700000000",
        "label_config": CONFIG,
        "params": {"context": None},
    }
    answer = stack.post("/predict", json=body)
    assert answer.status_code in (400, 404, 422) and says in answer.json()["error"]["message"]


def test_a_long_video_is_answered_in_time_with_what_there_is(
    small_checkpoint: Path, tmp_path: Path, videos: PictureHost
) -> None:
    own = {"PALLAS_BATCH_WAIT_S": "1.5", "PALLAS_VIDEO_SLICE_S": "0.5", "PALLAS_VIDEO_FRAME_RATE": "25"}
    hold = tmp_path / "hold"
    hold.touch()
    with (
        run_stack(tmp_path, small_checkpoint, "--workers", "0", **own) as stack,
        slow_worker(stack, hold=hold, after=30),
    ):
        asked = [task(6, f"{videos.url}/long.mp4", drawn({1: (2.5, 33, 25, 33.5)}))]
        # the more often, the slower the machine: each time it goes on where it was
        found = wait_until(lambda: ask(stack, asked, CONFIG)[0], 600)
        assert "(so far," in found["model_version"]
        sequence = found["result"][0]["value"]["sequence"]
        assert found["result"][0]["type"] == "videorectangle" and 1 < sequence[-1]["frame"] < 500
