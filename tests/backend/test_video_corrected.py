"""A tracked region that a person corrects: what counts as a correction, and what the new track is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from backend.job import ClipReply, JobReply, ObjectReply, Sighting
from backend.label_studio.protocol import LabelStudioTask
from backend.label_studio.video_clock import Clock
from backend.labeling.roles import read_roles
from backend.settings import Settings
from backend.tasks.answers import Remembered
from backend.tasks.planner import Planner
from backend.tasks.video_corrected import corrected_ids, corrections
from backend.tasks.video_plan import ClipPlan
from tests.backend.test_planner import Nothing
from tests.backend.test_video import VIDEO, drawn, keyframe

OURS = [keyframe(1, x=0), keyframe(25, x=20), keyframe(50, x=40)]
CONFIG = """<View><Video name="video" value="$video" framerate="25"/><VideoRectangle name="box" toName="video"/>
<Labels name="what" toName="video"><Label value="Car"/></Labels>
<TextArea name="caption" toName="video" perRegion="true"/></View>"""


def remembered(name: str = "r", sequence: Sequence[dict[str, Any]] = OURS) -> Remembered:
    return Remembered.of([drawn(list(sequence), id=name)], None)


def saved(*sequence: dict[str, Any], **more: Any) -> dict[str, Any]:
    return drawn(list(sequence), origin="prediction-changed", **more)


def test_a_moved_box_and_a_new_one_are_corrections() -> None:
    ours = {"r": remembered()}
    for sequence, frames in (
        ((OURS[0], keyframe(25, x=22), OURS[2]), {25}),
        ((OURS[0], keyframe(13, x=3), *OURS[1:]), {13}),
        ((OURS[0], keyframe(13, x=3), OURS[1], keyframe(50, x=70)), {13, 50}),
        ((OURS[0], keyframe(30, x=3, rotation=20), *OURS[1:]), {30}),
    ):
        (found,) = corrections([saved(*sequence)], VIDEO, 25, ours)
        assert found.id == "r" and set(found.own) == frames and found.first == min(frames)
        assert [mark.time_s for mark in found.asked.marks] == [(frame - 1) / 25 for frame in sorted(frames)]
        assert found.asked.labels == ("Car",)
        assert corrected_ids([saved(*sequence)], ours) == {"r"}


@pytest.mark.parametrize(
    "sequence",
    [
        OURS,
        [OURS[0], keyframe(25, x=20.004), OURS[2]],  # rounding
        [OURS[0], OURS[2]],  # a keyframe deleted says nothing of where the thing is
        [*OURS[:2], keyframe(50, x=40, enabled=False)],  # switched off: nothing to track
        [*OURS, "rubbish", {"frame": "x"}],
    ],
)
def test_what_is_no_correction(sequence: list[Any]) -> None:
    assert corrections([saved(*sequence)], VIDEO, 25, {"r": remembered()}) == []
    # a region that is not ours, or is forgotten, or is no track
    assert corrections([saved(keyframe(1, x=50))], VIDEO, 25, {}) == []
    assert corrections([saved(keyframe(1, x=50))], VIDEO, 25, {"r": Remembered(id="r", image="video")}) == []


def sightings(first: int, x: float, last: int = 50) -> tuple[Sighting, ...]:
    return tuple(((frame - 1) / 25, (x, 20.0, x + 30, 60.0)) for frame in range(first, last + 1))


def test_before_the_correction_all_stays_and_keyframes_of_people_are_kept() -> None:
    own = [keyframe(20, x=5), keyframe(40, x=9)]
    (found,) = corrections([saved(OURS[0], own[0], OURS[1], own[1], OURS[2])], VIDEO, 25, {"r": remembered()})
    track = found.tracked_on(sightings(20, 60.0), Clock(25, 2.0), 0.5)
    assert track[:2] == [OURS[0], own[0]] and own[1] in track
    # of ours nothing is left behind it: the new track is there, to the end
    assert OURS[1] not in track and OURS[2] not in track and (track[-1]["frame"], track[-1]["x"]) == (50, 60.0)
    assert [one["frame"] for one in track] == sorted({one["frame"] for one in track})
    # nothing is tracked yet: as it was saved
    assert found.tracked_on((), Clock(25, 2.0), 0.5) == [OURS[0], own[0], OURS[1], own[1], OURS[2]]


def test_where_a_person_switched_it_off_it_stays_off() -> None:
    off = keyframe(30, x=9, enabled=False)
    (found,) = corrections([saved(OURS[0], keyframe(20, x=5), off)], VIDEO, 25, {"r": remembered()})
    track = found.tracked_on(sightings(20, 60.0), Clock(25, 2.0), 0.5)
    assert track[-1] == off and all(one["frame"] <= 30 for one in track)


class Knows(Nothing):
    def get(self, ids: Sequence[str]) -> dict[str, Remembered]:
        return {name: remembered(name) for name in ids if name in ("r", "still")}


def test_the_answer_is_all_that_was_saved_with_the_new_track() -> None:
    caption = {"id": "r", "type": "textarea", "from_name": "caption", "to_name": "video"}
    words = caption | {"value": {"text": ["by a person"], "sequence": OURS}}
    event = {"id": "t", "type": "timelinelabels", "from_name": "e", "to_name": "video", "value": {"ranges": []}}
    result = [saved(OURS[0], keyframe(20, x=5), *OURS[1:]), words, saved(*OURS, id="still"), event]
    result.append(drawn([keyframe(3)], id="new"))
    task = LabelStudioTask.model_validate(
        {"id": 7, "data": {"video": "/data/a.mp4"}, "annotations": [{"result": result, "updated_at": "2026-11-26"}]}
    )
    planner = Planner(Settings(_env_file=None), Knows())
    drawn_now, again = planner.plans(task, read_roles(CONFIG))
    assert isinstance(drawn_now, ClipPlan) and isinstance(again, ClipPlan)
    assert len(drawn_now.ask.objects) == 1 and drawn_now.ask.direction == "both"
    assert again.ask.direction == "forward" and len(again.ask.objects) == 1 and not again.ask.texts
    clip = ClipReply(duration_s=2.0, objects=(ObjectReply(sightings=sightings(20, 60.0), iou=0.8),))
    reply = JobReply(width=9, height=9, groups=(), seconds={}, model_version="v", cached=False, clip=clip)
    shaped = planner.shape([(again, reply)])
    items = shaped.prediction.result
    assert [item["type"] for item in items] == ["videorectangle", "textarea", "videorectangle", "timelinelabels"]
    moved, said, still, timeline = items
    assert moved["value"]["sequence"][-1]["x"] == 60.0 and moved["value"]["labels"] == ["Car"]
    assert said["value"] == {"text": ["by a person"], "sequence": moved["value"]["sequence"]}
    assert still["value"]["sequence"] == OURS and timeline["value"] == event["value"]
    # under ids of their own, so that the next correction is one of this answer
    assert moved["id"] == said["id"] and len({item["id"] for item in items} | {"r", "still", "t"}) == 6
    assert all(item["origin"] == "prediction" for item in items)
    assert {one.id for one in shaped.remembered} == {moved["id"], still["id"], timeline["id"]}
    assert shaped.remembered[0].sequence[-1][2] == 60.0
