"""The data manager's "Retrieve predictions", in a real Label Studio with the bundled checkpoint."""

from __future__ import annotations

from PIL import Image

from demo.truth import Scene
from tests.e2e.configs import drawn_box, regions
from tests.e2e.conftest import Desk
from tiny.clicks import iou

BOXED = (("test-11-00012", "ladybird"), ("test-11-00018", "dolphin"), ("test-11-00022", "house"))
BARE = ("test-11-00000", "test-11-00023")


def test_boxes_drawn_before_become_masks_and_other_tasks_get_nothing(desk: Desk, scenes: dict[str, Scene]) -> None:
    boxed = {}
    for name, kind in BOXED:
        scene = scenes[name]
        task = desk.label_studio.upload(desk.project, scene.picture)
        with Image.open(scene.picture) as picture:
            drawn = drawn_box(desk.config, scene.thing(kind).box(), picture.size, kind)
        desk.label_studio.annotate(task, drawn)
        boxed[task] = scene.thing(kind)
    bare = [desk.label_studio.upload(desk.project, scenes[name].picture) for name in BARE]

    answer = desk.label_studio.retrieve_predictions(desk.project, [*boxed, *bare])
    assert answer["processed_items"] == 5

    # an empty prediction would mark the task as predicted, and it would never be asked about again
    assert [desk.label_studio.predictions(task) for task in bare] == [[], []]
    for task, thing in boxed.items():
        (prediction,) = desk.label_studio.predictions(task)
        (region,) = regions(prediction["result"]).values()
        assert iou(region.masks[0], thing.mask) >= 0.7
        assert region.labels == [thing.kind]  # the annotator's own
        assert region.texts and region.texts[0].strip()
    desk.page.open(desk.project, next(iter(boxed)))


def test_opening_a_task_leaves_no_empty_and_no_second_prediction(desk: Desk, scenes: dict[str, Scene]) -> None:
    scene = scenes["test-11-00012"]
    bare = desk.label_studio.upload(desk.project, scene.picture)
    boxed = desk.label_studio.upload(desk.project, scene.picture)
    with Image.open(scene.picture) as picture:
        drawn = drawn_box(desk.config, scene.thing("ladybird").box(), picture.size, "ladybird")
    desk.label_studio.annotate(boxed, drawn)
    desk.page.open(desk.project, bare)
    desk.page.open(desk.project, boxed)
    assert desk.label_studio.predictions(bare) == []
    (prediction,) = desk.label_studio.predictions(boxed)
    assert len(regions(prediction["result"])) == 1
