"""What README promises an annotator, in a real Label Studio and a real browser, with the bundled checkpoint."""

from __future__ import annotations

import json

import numpy as np
import pytest

from demo.truth import Scene, Thing
from model.loading import hub
from tests.e2e.configs import Region, regions
from tests.e2e.conftest import Desk
from tiny.clicks import iou

THINGS = (("test-11-00012", "ladybird"), ("test-11-00018", "dolphin"), ("test-11-00000", "shirt"))
GOOD = 0.7  # IoU with the truth


def names_things() -> bool:
    """Whether the bundled checkpoint's card says that it tells classes apart; only then is the right one asked for."""
    figures = json.loads((hub.resolve("tiny").folder / "run.json").read_text(encoding="utf-8"))["figures"]
    return bool(figures["class_top1"] >= 0.9)


def saved_region(desk: Desk, task: int) -> Region:
    """The only region of the only annotation, as Label Studio's API gives it."""
    (annotation,) = desk.label_studio.annotations(task)
    found = regions(annotation["result"])
    assert len(found) == 1, {name: region.types for name, region in found.items()}
    return next(iter(found.values()))


def check(region: Region, thing: Thing, desk: Desk) -> None:
    """Mask, class and caption, all on this one region."""
    (mask,) = region.masks
    assert iou(mask, thing.mask) >= GOOD
    assert set(region.labels) <= set(desk.labels) and len(region.labels) <= 1
    assert region.labels == [thing.kind] or not names_things()
    assert region.texts and all(text.strip() for text in region.texts)


@pytest.mark.parametrize(("name", "kind"), THINGS, ids=[kind for _, kind in THINGS])
def test_a_click_is_saved_as_mask_class_and_caption(desk: Desk, scenes: dict[str, Scene], name: str, kind: str) -> None:
    thing = scenes[name].thing(kind)
    task = desk.label_studio.upload(desk.project, scenes[name].picture)
    desk.page.open(desk.project, task)
    desk.page.auto_annotation()
    desk.page.choose("KeyPoint")
    exchange = desk.page.click(*thing.inside())
    desk.page.wait_for_suggestions()
    desk.page.shot(f"click-{kind}-suggested")
    # class and caption can be read before the tick
    (answered,) = regions(exchange.result).values()
    desk.page.expect_message(*answered.labels, *answered.texts)
    desk.page.accept()
    desk.page.shot(f"click-{kind}-accepted")
    desk.page.submit()
    check(saved_region(desk, task), thing, desk)


@pytest.mark.parametrize(("name", "kind"), THINGS, ids=[kind for _, kind in THINGS])
def test_a_box_is_saved_as_mask_class_and_caption(desk: Desk, scenes: dict[str, Scene], name: str, kind: str) -> None:
    thing = scenes[name].thing(kind)
    task = desk.label_studio.upload(desk.project, scenes[name].picture)
    desk.page.open(desk.project, task)
    desk.page.auto_annotation()
    desk.page.choose("Rectangle")
    desk.page.drag(*thing.box())
    desk.page.wait_for_suggestions()
    desk.page.shot(f"box-{kind}-suggested")
    desk.page.accept()
    desk.page.shot(f"box-{kind}-accepted")
    desk.page.submit()
    check(saved_region(desk, task), thing, desk)


def test_an_alt_click_takes_a_part_away(desk: Desk, scenes: dict[str, Scene]) -> None:
    scene = scenes["test-11-00023"]
    thing = scene.thing("turtle")
    task = desk.label_studio.upload(desk.project, scene.picture)
    desk.page.open(desk.project, task)
    desk.page.auto_annotation()
    desk.page.choose("KeyPoint")
    (first,) = regions(desk.page.click(*thing.inside()).result).values()
    desk.page.wait_for_suggestions()
    desk.page.shot("alt-click-before")

    x, y = farthest(first.masks[0], thing.inside())
    exchange = desk.page.click(x, y, "Alt")
    assert [prompt["is_positive"] for prompt in exchange.prompts] == [True, False]
    (second,) = regions(exchange.result).values()
    assert iou(first.masks[0], second.masks[0]) < 0.98
    height, width = first.masks[0].shape
    assert not second.masks[0][int(y / 100 * height), int(x / 100 * width)]

    desk.page.wait_for_suggestions()
    desk.page.shot("alt-click-after")
    desk.page.accept()
    desk.page.submit()
    assert (saved_region(desk, task).masks[0] == second.masks[0]).all()


def test_with_auto_accept_a_lone_alt_click_corrects_the_region_it_falls_on(
    desk: Desk, scenes: dict[str, Scene]
) -> None:
    scene = scenes["test-11-00012"]
    thing = scene.thing("ladybird")
    task = desk.label_studio.upload(desk.project, scene.picture)
    desk.page.open(desk.project, task)
    desk.page.auto_annotation(accept=True)
    desk.page.choose("KeyPoint")
    (first,) = regions(desk.page.click(*thing.inside()).result).items()

    x, y = farthest(first[1].masks[0], thing.inside())
    # Control, since a plain click would choose the accepted region
    exchange = desk.page.click(x, y, "Control", "Alt")
    assert [prompt["is_positive"] for prompt in exchange.prompts] == [False]
    (second,) = regions(exchange.result).items()
    assert second[0] == first[0]
    height, width = second[1].masks[0].shape
    assert not second[1].masks[0][int(y / 100 * height), int(x / 100 * width)]

    desk.page.shot("corrected")
    desk.page.submit()
    assert (saved_region(desk, task).masks[0] == second[1].masks[0]).all()


def farthest(mask: np.ndarray, start: tuple[float, float]) -> tuple[float, float]:
    """The point of the mask that lies farthest from a point, both in percentages."""
    height, width = mask.shape
    rows, columns = np.nonzero(mask)
    away = (columns / width - start[0] / 100) ** 2 + (rows / height - start[1] / 100) ** 2
    last = away.argmax()
    return 100 * (columns[last] + 0.5) / width, 100 * (rows[last] + 0.5) / height


def test_a_label_is_corrected_by_one_key_and_nothing_drops(desk: Desk, scenes: dict[str, Scene]) -> None:
    scene = scenes["test-11-00012"]
    task = desk.label_studio.upload(desk.project, scene.picture)
    desk.page.open(desk.project, task)
    desk.page.auto_annotation()
    desk.page.choose("KeyPoint")
    first, second = scene.thing("ladybird").inside(), scene.thing("scissors").inside()
    desk.page.click(*first)
    desk.page.wait_for_suggestions()
    desk.page.accept()
    # select, key, Escape
    desk.page.select(*first)
    desk.page.press("1")
    desk.page.press("Escape")
    # the tool is still there: the next click is answered, and its label is the model's again
    assert not desk.page.click(*second).prompts[0]["value"].get("labels")
    desk.page.wait_for_suggestions()
    desk.page.accept()
    # a label that is chosen before the click is given to it
    desk.page.press("2")
    desk.page.click(5, 95)
    desk.page.wait_for_suggestions()
    desk.page.expect_message(f"{desk.labels[1]} (chosen)")
    desk.page.accept()
    desk.page.shot("corrected-label")
    labels = [region["labels"] for region in desk.page.regions()]
    assert labels[0] == desk.labels[:1] != labels[1] and labels[2] == desk.labels[1:2]


def test_several_boxes_are_accepted_with_one_tick(desk: Desk, scenes: dict[str, Scene]) -> None:
    scene = scenes["test-11-00012"]
    task = desk.label_studio.upload(desk.project, scene.picture)
    desk.page.open(desk.project, task)
    desk.page.auto_annotation()
    desk.page.choose("Rectangle")
    desk.page.drag(*scene.thing("ladybird").box())
    desk.page.drag(*scene.thing("scissors").box())
    desk.page.wait_for_suggestions(2)
    desk.page.expect_message("2 regions")
    desk.page.accept()
    desk.page.submit()
    (annotation,) = desk.label_studio.annotations(task)
    assert len(regions(annotation["result"])) == 2


def test_what_submit_before_the_tick_loses_is_said(desk: Desk, scenes: dict[str, Scene]) -> None:
    scene = scenes["test-11-00012"]
    first, second = (desk.label_studio.upload(desk.project, scene.picture) for _ in range(2))
    desk.page.open(desk.project, first)
    desk.page.auto_annotation()
    desk.page.choose("KeyPoint")
    desk.page.click(*scene.thing("ladybird").inside())
    desk.page.wait_for_suggestions()
    desk.page.submit()
    (region,) = regions(desk.label_studio.annotations(first)[0]["result"]).values()
    assert region.types == ["keypoint"]
    # the click that is left is no work, and the next answer says what happened
    desk.label_studio.retrieve_predictions(desk.project, [first])
    assert desk.label_studio.predictions(first) == []
    desk.page.open(desk.project, second)
    desk.page.click(*scene.thing("ladybird").inside())
    desk.page.wait_for_suggestions()
    desk.page.shot("submitted-before-the-tick")
    desk.page.expect_message(f"task {first} was submitted before the tick: only 1 click is saved")


def test_after_a_reload_an_alt_click_is_meant_for_the_newest_suggestion(desk: Desk, scenes: dict[str, Scene]) -> None:
    scene = scenes["test-11-00012"]
    thing = scene.thing("ladybird")
    task = desk.label_studio.upload(desk.project, scene.picture)
    desk.page.open(desk.project, task)
    desk.page.auto_annotation()
    desk.page.choose("KeyPoint")
    (first,) = regions(desk.page.click(*thing.inside()).result).items()
    desk.page.wait_for_draft()
    desk.page.open(desk.project, task)
    # beside the mask, as somebody does who wants less of it at its edge
    exchange = desk.page.click(97, 3, "Alt")
    # Label Studio sends the click from before along, and does not say any more that it was one
    assert [prompt.get("is_positive") for prompt in exchange.prompts] == [None, False]
    assert list(regions(exchange.result)) == [first[0]]
    desk.page.wait_for_suggestions()
