"""All of a kind, in a real Label Studio: a word is typed, or one is shown, and suggestions for all come."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from demo.truth import Mask, Scene
from tests.e2e.configs import regions
from tests.e2e.conftest import Desk
from tests.e2e.labelling_page import Exchange
from tests.e2e.several import PLACES, SIZE, several
from tests.http.stack import Stack
from tiny.clicks import iou

KIND, OTHER = ("test-11-00018", "dolphin"), ("test-11-00012", "ladybird")
FIELD = '<TextArea name="find" toName="image" pallas="find" maxSubmissions="1" placeholder="find: type a word"/>'
CLICKS = """<KeyPointLabels name="point" toName="image" smart="true" smartOnly="true">
  <Label value="thing" pallas="auto"/><Label value="alike" pallas="alike"/></KeyPointLabels>"""


@pytest.fixture
def crowd(desk: Desk, stack: Stack, scenes: dict[str, Scene], tmp_path: Path) -> list[Mask]:
    """An open task with three of a kind; their masks. The project's config can search."""
    config, count = re.subn(r"<KeyPoint [^>]*/>", CLICKS, desk.config.replace("</View>", f"{FIELD}</View>"))
    assert count == 1
    project = desk.label_studio.make_project(config, "find them all")
    desk.label_studio.connect(project, stack.url)
    masks = several(scenes, KIND, OTHER, tmp_path / "several.png")
    desk.project, desk.config = project, config
    desk.page.open(project, desk.label_studio.upload(project, tmp_path / "several.png"))
    desk.page.auto_annotation()
    return masks


def met(exchange: Exchange, truths: list[Mask]) -> list[bool]:
    """Of each true mask, whether the answer has it."""
    masks = [mask for region in regions(exchange.result).values() for mask in region.masks]
    return [any(iou(mask, truth) > 0.5 for mask in masks) for truth in truths]


def spot(place: tuple[int, int]) -> tuple[float, float]:
    return 100 * place[0] / SIZE[0], 100 * place[1] / SIZE[1]


def test_a_typed_word_finds_all_of_them(desk: Desk, crowd: list[Mask]) -> None:
    found = desk.page.type_into("find: type a word", "dolphin")
    assert sum(met(found, crowd)) >= 2
    answered = regions(found.result)
    count = sum(bool(region.masks) for region in answered.values())
    desk.page.wait_for_suggestions(count)
    desk.page.shot("find-by-word")
    assert all(region.labels == ["dolphin"] and region.texts for region in answered.values() if region.masks)
    desk.page.accept()
    desk.page.shot("find-by-word-accepted")
    assert len(desk.page.regions()) >= 2


def shown(desk: Desk) -> Exchange:
    """The answer to a click on the first, accepted region with the label for examples."""
    desk.page.choose("Rectangle")
    x, y = spot(PLACES[0])
    desk.page.drag(x - 14, y - 17, x + 14, y + 17)
    desk.page.wait_for_suggestions()
    desk.page.accept()
    desk.page.wait_for_draft()
    desk.page.choose_again("KeyPoint")
    desk.page.choose_label("alike")
    return desk.page.click(x, y, "Control")


def suggested(exchange: Exchange) -> int:
    return sum(bool(region.masks) for region in regions(exchange.result).values())


def test_one_of_them_finds_the_others(desk: Desk, crowd: list[Mask]) -> None:
    found = shown(desk)
    assert met(found, crowd) == [False, True, True]
    desk.page.wait_for_suggestions(suggested(found))
    desk.page.shot("find-alike")
    desk.page.accept()
    desk.page.shot("find-alike-accepted")
    assert len(desk.page.regions()) >= 3


def test_a_wrong_one_becomes_a_counter_example(desk: Desk, crowd: list[Mask]) -> None:
    """An Alt-click on a suggestion asks again, without it."""
    found = shown(desk)
    assert met(found, crowd)[1]
    desk.page.wait_for_suggestions(suggested(found))
    desk.page.choose_label("alike")
    again = desk.page.click(*spot(PLACES[1]), "Alt")
    clicks = [prompt.get("is_positive") for prompt in again.prompts if prompt["type"].startswith("keypoint")]
    assert {False, True} <= set(clicks)
    assert met(again, crowd)[:2] == [False, False]
    desk.page.shot("find-unlike")
