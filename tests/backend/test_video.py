"""Label Studio's frames and keyframes, what a person drew, and the roles of a video's controls."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.errors import ConfigError
from backend.job import Sighting
from backend.label_studio.video_clock import Clock, rate_of, time_of
from backend.labeling.labels import Labels
from backend.labeling.roles import read_roles
from backend.labeling.video_roles import VideoRoles
from backend.tasks.video_drawn import boxes
from backend.tasks.video_keyframes import keyframes
from backend.worker.video_job import VideoJob
from demo.clip import box_at
from model.values.task import Task


def shown(sequence: list[dict[str, Any]], frame: int) -> list[float] | None:
    """x, y, width and height that Label Studio draws on a frame."""
    box = box_at(sequence, frame)
    return None if box is None else [box[0], box[1], box[2] - box[0], box[3] - box[1]]


@pytest.mark.parametrize("rate", [25.0, 24.0, 29.97, 10.0, 60.0])
def test_frames_and_times(rate: float) -> None:
    clock = Clock(rate, 4.0)
    assert clock.count == np.ceil(4 * rate) and clock.frame(0) == 1
    for frame in range(1, clock.count + 1):
        # what a person marked on a frame is asked at its time, and an answer at that time is of that frame
        assert clock.frame(time_of(frame, rate)) == frame == clock.frame_before(time_of(frame + 1, rate))
    assert clock.frame(99) == clock.count
    # a picture that begins between two of Label Studio's frames is first seen on the second
    assert Clock(10, 4).frame(0.31) == 5 and Clock(10, 4).frame_before(0.31) == 4


@pytest.mark.parametrize(
    ("attributes", "data", "rate"),
    [
        ({}, {}, 24),
        ({"framerate": "25"}, {}, 25),
        ({"frameRate": "29.97"}, {}, 29.97),
        ({"frameRate": "$fps"}, {"fps": "12.5"}, 12.5),
        ({"frameRate": "$fps"}, {}, 24),
        ({"frameRate": "0.04"}, {}, 25),
        ({"frameRate": "fast"}, {}, 24),
        ({"frameRate": "-3"}, {}, 24),
    ],
)
def test_frame_rates(attributes: dict[str, str], data: dict[str, Any], rate: float) -> None:
    assert rate_of(attributes, data) == pytest.approx(rate)


def sightings(boxes_: list[tuple[float, float, float, float] | None], rate: float = 25) -> list[Sighting]:
    return [(i / rate, box) for i, box in enumerate(boxes_)]


def test_few_keyframes_say_the_same() -> None:
    clock = Clock(25, 4.0)
    rng = np.random.default_rng(0)
    x = np.concatenate([np.linspace(5, 45, 50), np.linspace(45, 20, 50)]) + rng.uniform(-0.2, 0.2, 100)
    track: list[tuple[float, float, float, float] | None] = []
    track += [(a, 20 + 10 * np.sin(i / 15), a + 20, 60.0) for i, a in enumerate(x)]
    for tolerance, most in ((0.5, 25), (2.0, 12), (0.0, 100)):
        sequence = keyframes(sightings(track), clock, tolerance)
        assert len(sequence) <= most and sequence[0]["frame"] == 1 and sequence[-1]["frame"] == 100
        assert all(keyframe["enabled"] for keyframe in sequence)
        for frame, box in enumerate(track, start=1):
            assert box is not None
            drawn = shown(sequence, frame)
            wanted = (box[0], box[1], box[2] - box[0], box[3] - box[1])
            np.testing.assert_allclose(drawn, wanted, atol=tolerance + 2e-3)  # type: ignore[arg-type]


def test_a_thing_that_is_gone_is_not_shown() -> None:
    here = (10.0, 10.0, 30.0, 30.0)
    track = [None] * 3 + [here] * 4 + [None] * 2 + [here] + [None] * 5
    sequence = keyframes(sightings(track), Clock(25, len(track) / 25), 0.5)
    visible = [frame for frame in range(2, len(track) + 1) if shown(sequence, frame) is not None]
    assert visible == [4, 5, 6, 7, 10]
    # it stays to the end where it was there at the end
    stays = keyframes(sightings([None, None, here, here]), Clock(25, 1.0), 0.5)
    assert shown(stays, 25) is not None
    assert keyframes(sightings([None, None]), Clock(25, 1.0), 0.5) == []


def test_sparse_sightings_and_other_rates() -> None:
    # tracked five times a second, the file at 25, Label Studio at its default 24
    track: list[Sighting] = [(i / 5, (2.0 * i, 10, 2.0 * i + 20, 30)) for i in range(20)]
    sequence = keyframes(track, Clock(24, 4.0), 0.5)
    assert [keyframe["frame"] for keyframe in sequence] == [1, 93]
    assert sequence[0]["time"] == pytest.approx(1 / 24, abs=1e-4)
    middle = shown(sequence, 49)
    assert middle is not None and middle[0] == pytest.approx(2 * 10, abs=0.6)


VIDEO = VideoRoles("video", "video", rectangle="box", labels=Labels())


def drawn(sequence: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    item = {"id": "r", "type": "videorectangle", "from_name": "box", "to_name": "video", "origin": "manual"}
    return item | {"value": {"sequence": sequence, "labels": ["Car"]}} | more


def keyframe(frame: Any, enabled: bool = True, **more: Any) -> dict[str, Any]:
    return {"frame": frame, "enabled": enabled, "x": 10, "y": 20, "width": 30, "height": 40, "rotation": 0} | more


def test_boxes_that_a_person_drew() -> None:
    (found,) = boxes([drawn([keyframe(51), keyframe(1, x=0), keyframe(80, False)])], VIDEO, 25)
    assert found.id == "r" and found.asked.labels == ("Car",)
    assert [(mark.time_s, mark.box) for mark in found.asked.marks] == [(0, (0, 20, 30, 60)), (2, (10, 20, 40, 60))]
    (many,) = boxes([drawn([keyframe(frame) for frame in range(1, 502)])], VIDEO, 25)
    times = [mark.time_s for mark in many.asked.marks]
    assert len(times) == 32 and (times[0], times[-1]) == (0, 20) and max(np.diff(times)) < 0.7
    result = [drawn([keyframe(1)], id="a"), drawn([keyframe(1)], id="b", origin="prediction")]
    result += [drawn([keyframe(1)], id="c", origin="prediction-changed"), drawn([keyframe(1)], id="d", to_name="other")]
    result.append({"id": "e", "type": "timelinelabels", "from_name": "t", "to_name": "video", "value": {"ranges": []}})
    assert [box.id for box in boxes(result, VIDEO, 25)] == ["a"]
    assert boxes(result, VIDEO, 25, {"a"}) == []


@pytest.mark.parametrize(
    "sequence",
    [[], ["z"], *([keyframe(1, **bad)] for bad in ({"enabled": False}, {"width": 0}, {"x": None}, {"x": "a"}))],
)
def test_a_region_that_cannot_be_read_costs_only_itself(sequence: list[Any]) -> None:
    assert [box.id for box in boxes([drawn(sequence), drawn([keyframe(1)], id="good")], VIDEO, 25)] == ["good"]


def test_the_request_that_label_studio_sent() -> None:
    recorded = Path(__file__).parent.parent / "http" / "recorded" / "predict_video_interactive.json"
    body = json.loads(recorded.read_text())["body"]
    video = read_roles(body["label_config"]).videos["video"]
    assert (video.rectangle, video.timeline and video.timeline.name, video.rate({})) == ("box", "timeline", 25)
    assert [c.name for c in video.words] == ["region_caption"] and [c.name for c in video.whole] == ["video_caption"]
    (found,) = boxes(body["params"]["context"]["result"], video, 25)
    assert found.asked.labels == ("Car",) and found.asked.marks[0].time_s == 0


def test_questions_about_a_video() -> None:
    roles = read_roles(
        '<View><Video name="v" value="$clip"/><VideoRectangle name="b" toName="v"/>'
        '<Labels name="l" toName="v"><Label value="cat"/></Labels>'
        '<TextArea name="caption" toName="v" perRegion="true"/><TextArea name="explain" toName="v" perRegion="true"/>'
        '<Choices name="scene" toName="v"><Choice value="day"/><Choice value="night"/></Choices></View>'
    )
    video = roles.videos["v"]
    ask = video.ask_whole(video.ask())
    assert [text.task for text in ask.texts] == [Task.RECOGNIZE, Task.BRIEF, Task.EXPLAIN] and ask.events is None
    assert [len(labels.candidates) for labels in ask.label_sets] == [1]
    assert [len(labels.candidates) for labels in ask.whole_sets] == [2] and video.key == "clip"
    with pytest.raises(ConfigError, match="VideoRectangle"):
        read_roles('<View><Video name="v" value="$v"/><Labels name="l" toName="v"><Label value="a"/></Labels></View>')


def test_a_turned_box_on_a_frame_is_asked_as_it_is_drawn() -> None:
    """What is upright around it depends on the video's size, which the worker knows."""
    (found,) = boxes([drawn([keyframe(1, rotation=90), keyframe(2)])], VIDEO, 25)
    turned, upright = found.asked.marks
    assert turned.box is None and turned.drawing is not None and upright.drawing is None
    work = object.__new__(VideoJob)
    work.width, work.height = 1000, 500
    # x 10 %, y 20 %, 300 × 200 pixels about its corner at (100, 100): from -100 to 100, and from 100 to 400
    assert work._pixels(turned) == pytest.approx((0, 100, 100, 400))


def test_a_rate_deep_in_the_data() -> None:
    assert rate_of({"framerate": "$meta.fps"}, {"meta": {"fps": 12.5}}) == 12.5
