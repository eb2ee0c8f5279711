from __future__ import annotations

from typing import Any

import pytest
import redis

from backend import errors
from backend.label_studio.protocol import Context, ResultItem
from backend.labeling.roles import Roles, read_roles
from backend.predict import notice
from backend.tasks.results import Words
from tests.http.stack import box, point

PLAIN = """<View><Image name="image" value="$image"/><KeyPointLabels name="point" toName="image"><Label value="food"/>
</KeyPointLabels><BrushLabels name="mask" toName="image"><Label value="food"/></BrushLabels>{}</View>"""
CAPTION = '<TextArea name="caption" toName="image" perRegion="true"/>'
NOTICE = '<TextArea name="message" toName="image" pallas="notice"/>'
GONE = errors.PictureUnreachable("the picture's host does not answer: is it up?")


def context(*regions: dict[str, Any]) -> list[ResultItem]:
    return Context.model_validate({"result": list(regions)}).result


def roles(*tags: str) -> Roles:
    return read_roles(PLAIN.format("".join(tags)))


def test_a_control_for_notices_shows_it_at_once() -> None:
    shown = notice.shown(GONE, context(point(50, 50)), roles(CAPTION, NOTICE))
    assert shown is not None
    (text,) = shown
    assert (text["from_name"], text["type"]) == ("message", "textarea")
    assert text["value"]["text"] == [f"Pallas: {GONE}"] and "original_width" not in text


def test_else_it_is_the_text_of_the_newest_prompt() -> None:
    shown = notice.shown(GONE, context(point(50, 50), box(1, 1, 5, 5)), roles(CAPTION))
    assert shown is not None
    region, text = shown
    assert region["type"] == "rectanglelabels" and region["value"]["width"] == 5
    assert region["id"] == text["id"] != "b1-1" and text["value"]["text"] == [f"Pallas: {GONE}"]
    assert "is_positive" not in region


def test_nothing_is_shown_that_cannot_be_or_need_not_be() -> None:
    assert notice.shown(GONE, context(point(50, 50)), roles()) is None
    assert notice.shown(errors.WorkerError("x"), context(point(50, 50)), roles(CAPTION)) is None
    assert notice.shown(GONE, context(), roles(CAPTION)) is None
    assert notice.shown(GONE, context(point(5, 5, to_name="elsewhere")), roles(CAPTION)) is None


def test_long_reasons_are_cut() -> None:
    shown = notice.shown(errors.PromptError("x" * 5000), context(point(50, 50)), roles(NOTICE))
    assert shown is not None and len(shown[0]["value"]["text"][0]) == 300


@pytest.mark.parametrize(
    ("error", "helps"),
    [
        (errors.PictureNotFound, True),
        (errors.PictureForbidden, True),
        (errors.QueueFull, True),
        (errors.ModelLoading, True),
        (errors.PromptError, True),
        (errors.JobTimeout, True),
        (errors.BadRequest, False),
        (errors.ConfigError, False),
        (errors.QueueDown, False),
        (errors.WorkerError, False),
    ],
)
def test_which_errors_an_annotator_can_do_something_about(error: type[errors.BackendError], helps: bool) -> None:
    assert error.annotator_can_help is helps


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ([Words("dolphin", 0.883, "dolphin", "A blue dolphin.")], "dolphin 0.88 – A blue dolphin."),
        ([Words("food", None, "cup", "A cup.")], "food (chosen) – A cup."),
        ([Words(None, None, "cup", "A cup.")], "no label (cup) – A cup."),
        ([Words("animal", 0.5, "", "")], "animal 0.50"),
        ([Words("a", 0.9, "a", "x"), Words(None, None, "b", "y")], "2 regions: a 0.90, no label (b)"),
        ([], ""),
    ],
)
def test_a_suggestion_in_a_line(said: list[Words], line: str) -> None:
    assert notice.suggestion(said) == line


def test_a_line_is_cut_too() -> None:
    assert len(notice.suggestion([Words("a", 0.5, "a", "x" * 5000)])) == 300


def test_each_answer_takes_the_place_of_the_last(client: redis.Redis) -> None:
    client.flushall()
    board = notice.Board(client)
    image = roles(CAPTION, NOTICE).images["image"]
    for text in ("one", "two"):
        (item,) = board.answered("1.1", 7, image, text)
        assert item["value"] == {"text": [text]}
    (item,) = board.answered("1.1", 7, image)
    assert item["value"] == {"text": []}
    assert board.answered("1.1", 7, roles(CAPTION).images["image"], "nowhere to show it") == []


def test_the_next_good_answer_takes_it_away(client: redis.Redis) -> None:
    client.flushall()
    board = notice.Board(client)
    image = roles(CAPTION, NOTICE).images["image"]
    assert board.answered("1.1", 7, image) == []
    board.pinned("1.1", 7)
    (item,) = board.answered("1.1", 7, image)
    assert item["from_name"] == "message" and item["value"] == {"text": []}
    assert board.answered("1.1", 7, image) == []
