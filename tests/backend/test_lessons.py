"""What annotations teach, and what they do not."""

from __future__ import annotations

from typing import Any

import redis

from backend.label_studio.protocol import LabelStudioTask, WebhookRequest, parse
from backend.labeling.roles import read_roles
from backend.predict.lesson_queue import Due, LessonQueue
from backend.predict.lessons import Lessons, lessons_of
from backend.settings import Settings
from backend.tasks.plan import PicturePlan
from backend.tasks.video_plan import ClipPlan
from tests.backend.test_drawn import item, mask_item, rectangle
from tests.http.stack import CONFIG

ROLES = read_roles(CONFIG)
MASK = rectangle(60, 40, 180, 200)
FAR = rectangle(300, 240, 420, 380)


def work(number: int, *result: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": number, "result": list(result), "completed_by": number, "updated_at": f"2026-11-2{number}"} | more


def taught(*works: dict[str, Any], undecided: tuple[str, ...] = ()) -> Lessons:
    task = LabelStudioTask.model_validate({"id": 7, "data": {"image": "x.png"}, "annotations": list(works)})
    return lessons_of(task, ROLES, undecided, 10**6)


def labels(found: Lessons) -> dict[str, dict[str, tuple[str, ...]]]:
    return {one.id: one.entry.labels for one in found.examples if one.entry.labels}


def test_a_region_teaches_the_labels_of_all_controls() -> None:
    found = taught(work(1, mask_item(MASK, label="food"), item("choices", "class", {"choices": ["animal"]})))
    assert labels(found) == {"r": {"mask": ("food",), "class": ("animal",)}}
    # what one control says holds for the others that have this label
    assert labels(taught(work(1, mask_item(MASK, label="food")))) == {"r": {"mask": ("food",), "class": ("food",)}}


def test_what_teaches_nothing() -> None:
    assert labels(taught(work(1, mask_item(MASK, label="object")))) == {}  # leaves the choice to the model
    assert labels(taught(work(1, mask_item(MASK, label="a label that the config lacks")))) == {}
    assert labels(taught(work(1, mask_item(MASK), was_cancelled=True))) == {}
    assert labels(taught(work(1, mask_item(MASK), parent_prediction=5, completed_by=None))) == {}
    assert labels(taught(work(1, mask_item(MASK)), undecided=("r",))) == {}
    assert labels(taught(work(1, {"id": "k", "type": "keypointlabels", "from_name": "point"}, {"type": "x"}))) == {}
    damaged = mask_item(MASK)
    damaged["value"]["rle"] = [1, 2, 3]
    assert labels(taught(work(1, damaged), work(2, mask_item(FAR, "s")))).keys() == {"s"}
    unknown = mask_item(MASK) | {"to_name": "another"}
    assert labels(taught(work(1, unknown))) == {}


def test_places_beside_the_regions_are_looked_at_too() -> None:
    found = taught(work(1, mask_item(MASK)))
    elsewhere = [one for one in found.examples if not one.entry.labels]
    assert len(elsewhere) == 2
    for one in elsewhere:
        (point,) = one.prompt.points
        assert not MASK[int(point.y / 100 * 400), int(point.x / 100 * 600)]
    again = taught(work(1, mask_item(MASK)))
    assert [one.entry.shape for one in found.examples] == [one.entry.shape for one in again.examples]


def test_two_who_disagree_are_told_and_not_averaged() -> None:
    found = taught(
        work(1, mask_item(MASK, "a", "food")), work(2, mask_item(rectangle(62, 42, 180, 200), "b", "animal"))
    )
    assert labels(found) == {}
    (dispute,) = found.disputes
    assert dispute["labels"] == {"user 1": "food", "user 2": "animal"}


def test_two_who_agree_are_one_example() -> None:
    found = taught(work(1, mask_item(MASK, "a")), work(2, mask_item(MASK, "a"), mask_item(FAR, "c", "animal")))
    assert set(labels(found)) == {"a", "c"} and not found.disputes
    assert next(one.entry.annotations for one in found.examples if one.id == "a") == (1, 2)


def test_of_one_person_the_newest_counts_and_ground_truth_before_all() -> None:
    newest = taught(work(1, mask_item(MASK, "a", "food")), work(2, mask_item(MASK, "a", "animal"), completed_by=1))
    assert labels(newest)["a"]["mask"] == ("animal",) and not newest.disputes
    truth = taught(work(1, mask_item(MASK, "a", "food"), ground_truth=True), work(2, mask_item(MASK, "a", "animal")))
    assert labels(truth)["a"]["mask"] == ("food",) and truth.examples[0].entry.weight == 2.0


def test_jobs_ask_for_what_is_not_known_yet() -> None:
    found = taught(work(1, mask_item(MASK, "a"), mask_item(FAR, "b", "animal")))
    task = LabelStudioTask.model_validate({"id": 7, "data": {"image": " x.png "}})
    plans = [plan for plan in found.plans(task, 2, {"a"}) if isinstance(plan, PicturePlan)]
    assert [len(plan.wanted) for plan in plans] == [2, 1] and all(plan.picture == "x.png" for plan in plans)
    assert {one.id for plan in plans for one in plan.wanted} == {one.id for one in found.examples} - {"a"}
    assert found.plans(LabelStudioTask(id=7, data={}), 2) == []


VIDEO = read_roles(
    """<View><Video name="video" value="$video" frameRate="10"/><VideoRectangle name="box" toName="video"/>
    <Labels name="what" toName="video"><Label value="cat"/><Label value="dog"/></Labels>
    <TimelineLabels name="events" toName="video"><Label value="dog"/></TimelineLabels>
    <Choices name="kind" toName="video" perRegion="true"><Choice value="dog"/></Choices></View>"""
)


def tracked(label: str, frame: int = 6, x: float = 10, name: str = "t", **more: Any) -> dict[str, Any]:
    """A box that is off on frame 1 and shown from a frame on."""
    place = {"x": x, "y": 20, "width": 30, "height": 40, "rotation": 0}
    sequence = [place | {"frame": 1, "enabled": False}, place | {"frame": frame, "enabled": True}]
    value = {"sequence": sequence, "labels": [label]}
    return {"id": name, "from_name": "box", "to_name": "video", "type": "videorectangle", "value": value} | more


def taught_by_video(*works: dict[str, Any]) -> tuple[LabelStudioTask, Lessons]:
    given = {"id": 7, "data": {"video": " clip.mp4"}, "annotations": list(works)}
    task = LabelStudioTask.model_validate(given)
    return task, lessons_of(task, VIDEO, (), 10**6)


def test_a_tracked_box_teaches_by_the_first_frame_it_is_shown_on() -> None:
    event: dict[str, Any] = {"id": "e", "from_name": "events", "to_name": "video", "type": "timelinelabels"}
    event |= {"value": {"ranges": [{"start": 1, "end": 9}], "timelinelabels": ["dog"]}}
    broken = tracked("cat", name="b") | {"value": {"sequence": [{"frame": "x"}], "labels": ["cat"]}}
    task, found = taught_by_video(work(1, tracked("dog"), tracked("cat", name="c"), event, broken))
    assert labels(found) == {"t": {"box": ("dog",), "kind": ("dog",)}, "c": {"box": ("cat",)}}
    (plan,) = found.plans(task, 9, {"c"})
    assert isinstance(plan, ClipPlan) and (plan.picture, plan.looked) == ("clip.mp4", ("t",))
    (mark,) = plan.ask.looks
    assert mark.box == (10, 20, 40, 60) and 0.5 <= mark.time_s < 0.6
    assert len(found.plans(task, 1)) == 2, "no more regions in a job than a request may have"
    # moved in the picture or in time: it is looked at anew
    shapes = {taught_by_video(work(1, tracked("dog", *place)))[1].examples[0].entry.shape for place in
              ((6, 10), (7, 10), (6, 11))}  # fmt: skip
    assert len(shapes) == 3


def test_annotators_of_a_video_are_compared_on_the_same_frame() -> None:
    _, found = taught_by_video(work(1, tracked("dog", name="a")), work(2, tracked("cat", x=12, name="b")))
    assert labels(found) == {} and len(found.disputes) == 1
    _, found = taught_by_video(work(1, tracked("dog", name="a")), work(2, tracked("cat", 9, 12, "b")))
    assert set(labels(found)) == {"a", "b"}


def event(action: str, **more: Any) -> WebhookRequest:
    return parse(WebhookRequest, {"action": action, "project": {"id": 3}} | more)


def test_a_flood_of_events_is_one_lesson_a_task(client: redis.Redis) -> None:
    client.flushall()
    settings = Settings.model_validate({"label_studio_url": "http://x", "label_studio_api_key": "k"})
    queue = LessonQueue(client, settings)
    for number in range(10_000):
        queue.take(event("ANNOTATION_UPDATED", annotation={"id": number, "task": number % 5}))
    assert sorted(due.task for due in queue.pick(100)) == [0, 1, 2, 3, 4]
    assert queue.pick(100) == [] and queue.waiting(3) and not queue.waiting(4)
    # what comes while it is in hand waits again
    queue.take(event("ANNOTATION_UPDATED", annotation={"id": 1, "task": 2}))
    queue.done(Due(3, 2))
    assert [due.task for due in queue.pick(100)] == [2]
    # whoever takes over after a death begins what was in hand
    queue.again()
    assert len(queue.pick(100)) == 5
    queue.drop(3)
    assert not queue.waiting(3)


def test_what_events_are_about(client: redis.Redis) -> None:
    client.flushall()
    settings = Settings.model_validate({"label_studio_url": "http://x", "label_studio_api_key": "k"})
    queue = LessonQueue(client, settings)
    assert queue.take(event("ANNOTATIONS_DELETED", annotations=[{"id": 80}, {"id": 81}])) == 2
    assert queue.take(event("TASKS_DELETED", tasks=[{"id": 5}], annotations="odd")) == 1
    assert queue.take(event("ANNOTATIONS_CREATED", annotation=[{"id": 1, "task": 6}, {"id": 2, "task": 6}])) == 1
    assert queue.take(event("TASKS_CREATED", tasks=[{"id": 9}])) == 0
    assert queue.take(event("ANNOTATION_CREATED", annotation={"task": 8, "parent_prediction": 4})) == 0
    assert queue.take(parse(WebhookRequest, {"action": "ANNOTATION_CREATED", "annotation": {"task": 1}})) == 0
    assert sorted(due.task for due in queue.pick(9)) == [-81, -80, 5, 6]
    off = LessonQueue(client, settings.model_copy(update={"learn_labels": False}))
    assert off.take(event("ANNOTATION_CREATED", annotation={"task": 8})) == 0
    assert LessonQueue(client, Settings()).take(event("ANNOTATION_CREATED", annotation={"task": 8})) == 0
