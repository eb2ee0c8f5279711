"""What is in a task already: filled in where something is missing, corrected where a lone "not this" click falls."""

from __future__ import annotations

import uuid
from collections import Counter
from typing import Any

import numpy as np
import pytest
import redis
from label_studio_sdk.converter import brush
from pycocotools import mask as coco

from backend.errors import PromptError
from backend.job import PointPrompt, RegionPrompt
from backend.label_studio import geometry
from backend.label_studio import rle as brushes
from backend.label_studio.protocol import LabelStudioTask, ResultItem
from backend.labeling.roles import read_roles
from backend.tasks.answers import Answers, Remembered
from backend.tasks.drawn import correction, has_whole, newest, unfinished
from backend.tasks.wanted import WantedRegion
from model.values.mask import from_rle, to_rle
from tests.http.stack import CONFIG, SHIPPED, box, point

IMAGE = read_roles(CONFIG).images["image"]


def rectangle(x1: int, y1: int, x2: int, y2: int) -> np.ndarray:
    mask = np.zeros((400, 600), bool)
    mask[y1:y2, x1:x2] = True
    return mask


def item(kind: str, name: str, value: dict[str, Any], region: str = "r") -> dict[str, Any]:
    size = {"original_width": 600, "original_height": 400, "image_rotation": 0}
    return size | {"id": region, "from_name": name, "to_name": "image", "type": kind, "value": value}


def mask_item(mask: np.ndarray, region: str = "r", label: str = "food") -> dict[str, Any]:
    rle = brush.mask2rle(mask.astype("uint8") * 255)
    return item("brushlabels", "mask", {"format": "rle", "rle": rle, "brushlabels": [label]}, region)


def task(*result: dict[str, Any], drafts: list[dict[str, Any]] | None = None) -> LabelStudioTask:
    annotations = [{"id": 1, "result": list(result), "updated_at": "2026-11-23T10:00:00Z"}] if result else []
    return LabelStudioTask.model_validate(
        {"id": 7, "data": {"image": "x"}, "annotations": annotations, "drafts": drafts or []}
    )


def wanted(*result: dict[str, Any]) -> list[WantedRegion]:
    return unfinished(list(result), IMAGE, 10**6)


CLASS = item("choices", "class", {"choices": ["food"]})
CAPTION = item("textarea", "caption", {"text": ["a cup"]})


def test_boxes_get_a_mask_and_words_each() -> None:
    first, second = wanted(box(5, 5, 30, 40) | {"id": "a"}, box(50, 30, 40, 60, label="object") | {"id": "b"})
    assert first.prompt.box == (5, 5, 35, 45) and second.prompt.labels == ("object",)
    assert not first.own


def test_a_label_beside_a_plain_rectangle_is_kept() -> None:
    value = {"x": 5, "y": 5, "width": 30, "height": 40, "rotation": 0}
    label = item("labels", "label", value | {"labels": ["food"]})
    (region,) = unfinished([item("rectangle", "box", value), label], read_roles(SHIPPED).images["image"], 10**6)
    assert region.prompt.labels == ("food",) and region.prompt.box == (5, 5, 35, 45)


def test_points_are_regions_of_their_own_unless_one_says_not_this() -> None:
    plain = [point(x, 50, positive=None, id=str(x)) for x in (10, 40)]
    assert [len(region.prompt.points) for region in wanted(*plain)] == [1, 1]
    (together,) = wanted(*plain, point(70, 70, positive=False, id="no"))
    assert [p.positive for p in together.prompt.points] == [True, True, False]
    assert wanted(point(70, 70, positive=False)) == []


def test_a_mask_gets_the_words_that_it_lacks_and_keeps_its_own() -> None:
    mask = rectangle(60, 40, 180, 200)
    (region,) = wanted(mask_item(mask), CLASS)
    assert region.prompt.mask is not None and (from_rle(region.prompt.mask) == mask).all()
    assert [own["from_name"] for own in region.own] == ["mask", "class"] and region.prompt.labels == ("food",)
    assert wanted(mask_item(mask), CLASS, CAPTION) == []


def test_words_before_the_geometry_are_understood() -> None:
    (region,) = wanted(CAPTION, mask_item(rectangle(60, 40, 180, 200)))
    assert [own["from_name"] for own in region.own] == ["mask", "caption"]


def test_leftovers_under_a_masks_id_are_no_prompts() -> None:
    mask = mask_item(rectangle(60, 40, 180, 200))
    bogus = item("keypointlabels", "point", {**mask["value"], "keypointlabels": ["food"]})
    assert wanted(mask, bogus, CLASS, CAPTION) == []


def test_where_boxes_are_the_answer_they_keep_their_shape() -> None:
    image = read_roles(
        """<View><Image name="image" value="$image"/><RectangleLabels name="box" toName="image"><Label value="food"/>
        </RectangleLabels><TextArea name="caption" toName="image" perRegion="true"/></View>"""
    ).images["image"]
    drawn = box(5, 5, 30, 40) | {"id": "r"}
    (region,) = unfinished([drawn], image, 10**6)
    assert region.prompt.box == (5, 5, 35, 45) and region.own[0]["value"]["width"] == 30
    assert unfinished([drawn, CAPTION], image, 10**6) == []


def test_one_broken_region_does_not_cost_the_others() -> None:
    broken = item("brushlabels", "mask", {"rle": [1, 2, 3]}, "broken")
    assert len(wanted(broken, box(5, 5, 30, 40) | {"id": "b"})) == 1


def test_the_newest_work_counts_and_skipped_work_does_not() -> None:
    draft = {"id": 2, "result": [CAPTION]}
    assert newest(task(CLASS, drafts=[draft | {"updated_at": "2026-11-23T11:00:00+00:00"}])) == [CAPTION]
    assert newest(task(CLASS, drafts=[draft | {"updated_at": "2026-11-23T09:00:00Z"}])) == [CLASS]
    assert newest(task(CLASS, drafts=[draft | {"updated_at": "2026-11-23T10:00:00Z"}])) == [CAPTION], "a draft of it"
    skipped = LabelStudioTask.model_validate(
        {"id": 1, "data": {}, "annotations": [{"result": [CLASS], "was_cancelled": True}]}
    )
    assert newest(skipped) == []


def test_nulls_in_other_peoples_work_are_no_error() -> None:
    work = {"id": None, "result": None, "was_cancelled": None, "updated_at": None}
    given = LabelStudioTask.model_validate({"id": 1, "data": {}, "annotations": [work], "drafts": [work]})
    assert newest(given) == []


def test_words_about_the_whole_picture_that_are_there() -> None:
    image = read_roles(
        '<View><Image name="image" value="$image"/><TextArea name="caption" toName="image"/></View>'
    ).images["image"]
    assert has_whole([CAPTION], image) and not has_whole([CLASS], image)


def correct(given: LabelStudioTask, answers: Answers, x: float, y: float) -> WantedRegion:
    click = ResultItem.model_validate(point(x, y, positive=False))
    return correction([click], given, "1.1", IMAGE, answers, 10**6)


@pytest.fixture
def answers(client: redis.Redis) -> Answers:
    client.flushall()
    return Answers(client, 60)


def remember(answers: Answers, mask: np.ndarray, region: str | None = None) -> str:
    name = region or uuid.uuid4().hex
    kept = Remembered.of([mask_item(mask, name)], to_rle(mask))
    answers.keep("1.1", 7, [kept])
    return name


def test_a_lone_negative_click_takes_the_smallest_region_under_it(answers: Answers) -> None:
    large, small = rectangle(0, 0, 500, 390), rectangle(60, 40, 180, 200)
    given = task(mask_item(large, "large"), mask_item(small, "small"))
    region = correct(given, answers, 20, 30)
    assert region.id == "small" and [p.positive for p in region.prompt.points] == [False]
    assert region.prompt.mask is not None and (from_rle(region.prompt.mask) == small).all()
    assert correct(given, answers, 50, 80).id == "large"
    with pytest.raises(PromptError, match="click on a thing first"):
        correct(given, answers, 99, 99)


def test_only_what_lies_under_the_click_is_decoded(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither of two hundred earlier answers, nor of a draft's masks."""
    decoded: Counter[str] = Counter()
    for module, name in ((coco, "decode"), (brushes, "decode"), (geometry, "_polygon")):
        plain = getattr(module, name)

        def count(*arguments: Any, plain: Any = plain, name: str = name) -> Any:
            decoded[name] += 1
            return plain(*arguments)

        monkeypatch.setattr(module, name, count)
    ours = [rectangle(3 * i, 0, 3 * i + 3, 200) for i in range(150)]
    answers.keep("1.1", 7, [Remembered.of([mask_item(mask, str(i))], to_rle(mask)) for i, mask in enumerate(ours)])
    corners = [[[x, 60], [x + 4, 60], [x + 4, 90], [x, 90]] for x in range(0, 100, 5)]
    drawn = [
        *(mask_item(rectangle(6 * i, 200, 6 * i + 6, 220), f"b{i}") for i in range(100)),
        *(
            item("polygonlabels", "poly", {"points": ring, "polygonlabels": ["food"]}, f"p{ring[0][0]}")
            for ring in corners
        ),
    ]
    for (x, y), name in {(26.1, 20.0): "52", (26.1, 52.0): "b26", (27.0, 75.0): "p25"}.items():
        assert correct(task(*drawn), answers, x, y).id == name
    assert decoded.total() <= 2 and decoded["decode"] <= 1


def test_our_own_last_answer_counts_before_a_draft_has_it(answers: Answers) -> None:
    name = remember(answers, rectangle(60, 40, 180, 200))
    assert correct(task(), answers, 20, 30).id == name
    # a newer answer for the same region replaces what the draft still holds
    remember(answers, rectangle(300, 200, 400, 300), "both")
    given = task(mask_item(rectangle(0, 0, 50, 50), "both"))
    assert correct(given, answers, 58, 60).id == "both"
    with pytest.raises(PromptError):
        correct(given, answers, 2, 2)


def test_a_region_that_was_deleted_is_not_corrected(answers: Answers) -> None:
    remember(answers, rectangle(60, 40, 180, 200))
    draft = {"id": 2, "result": [CAPTION], "updated_at": "2099-01-01T00:00:00Z"}
    with pytest.raises(PromptError):
        correct(task(drafts=[draft]), answers, 20, 30)


def test_after_a_reload_a_lone_negative_click_is_meant_for_the_newest_undecided_suggestion(answers: Answers) -> None:
    first, second = rectangle(60, 40, 180, 200), rectangle(300, 200, 400, 300)
    for mask, name, clicks in ((first, "old", ["p1"]), (first, "refined", ["p1", "p2"]), (second, "other", ["p3"])):
        answers.keep("1.1", 7, [Remembered.of([mask_item(mask, name)], to_rle(mask))], clicks)
    points = [point(15, 25, id="p1"), point(16, 26, id="p2")]
    draft = {"id": 2, "result": points, "updated_at": "2099-01-01T00:00:00Z"}
    # the clicks of the last suggestion are gone from the draft: it was rejected; the first has a successor
    assert correct(task(drafts=[draft]), answers, 90, 90).id == "refined"
    assert correct(task(drafts=[draft]), answers, 20, 30).id == "refined"
    draft["result"] = []
    with pytest.raises(PromptError, match="click on a thing first"):
        correct(task(drafts=[draft]), answers, 90, 90)


def test_prompts_that_were_answered_are_known_again(answers: Answers) -> None:
    mask = rectangle(60, 40, 180, 200)
    answers.keep("1.1", 7, [Remembered.of([mask_item(mask, "r")], to_rle(mask))], ["p1", "p2"])
    assert answers.prompted(7, ["p1", "r", "p2"]) == {"p1", "p2"}
    assert answers.prompted(8, ["p1"]) == answers.prompted(None, ["p1"]) == answers.prompted(7, []) == set()


def test_a_corrected_region_keeps_the_clicks_that_made_it(answers: Answers) -> None:
    mask = rectangle(60, 40, 180, 200)
    made = RegionPrompt(points=(PointPrompt(x=15, y=25),), labels=("food",))
    answers.keep("1.1", 7, [Remembered.of([mask_item(mask, "r")], to_rle(mask), made)])
    region = correct(task(), answers, 20, 30)
    assert [(p.x, p.positive) for p in region.prompt.points] == [(15, True), (20, False)]
    assert region.prompt.labels == ("food",) and region.prompt.mask is not None


def test_a_correction_keeps_the_words_that_a_person_has_changed(answers: Answers) -> None:
    mask = rectangle(60, 40, 180, 200)
    ours = [mask_item(mask, "r"), CLASS, CAPTION]
    answers.keep("1.1", 7, [Remembered.of(ours, to_rle(mask))])
    edited = item("textarea", "caption", {"text": ["my own words"], "format": "rle", "rle": [1, 2, 3]})
    draft = {"id": 2, "result": [mask_item(mask, "r"), CLASS, edited], "updated_at": "2026-11-23T09:00:00Z"}
    region = correct(task(drafts=[draft]), answers, 20, 30)
    (word,) = region.words
    assert word["from_name"] == "caption" and word["value"] == {"text": ["my own words"]}
