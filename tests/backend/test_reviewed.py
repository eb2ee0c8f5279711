"""What people made of a task's regions, read out of its annotations."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from backend.errors import PromptError
from backend.job import PATH
from backend.label_studio.protocol import Annotation
from backend.learning.reviewed import ReviewedRegion, reviewed_regions, without
from model.values.mask import from_rle
from tests.backend.test_drawn import item, mask_item, rectangle

MASK = rectangle(60, 40, 180, 200)
RECORDED = Path(__file__).parents[1] / "http" / "recorded"


def one(result: list[dict], **more: object) -> ReviewedRegion:
    (found,) = reviewed_regions([Annotation.model_validate({"id": 3, "task": 7, "result": result, **more})])
    return found


def test_a_mask_with_its_labels_and_texts() -> None:
    result = [
        mask_item(MASK, label="gasket-B"),
        item("choices", "class", {"choices": ["food"]}),
        item("taxonomy", "kind", {"taxonomy": [["animal", "dog"]]}),
        item("textarea", "caption", {"text": ["a cup", "of coffee"]}),
    ]
    found = one(result, completed_by=4, updated_by={"id": 5}, ground_truth=True)
    assert found.labels == {"mask": ("gasket-B",), "class": ("food",), "kind": (f"animal{PATH}dog",)}
    assert found.texts == {"caption": "a cup\nof coffee"}
    assert (found.task, found.annotation, found.who, found.ground_truth, found.cancelled) == (7, 3, 5, True, False)
    prompt = found.prompt(MASK.size)
    assert found.is_mask and prompt.mask is not None
    assert np.array_equal(from_rle(prompt.mask), MASK)
    with pytest.raises(PromptError):
        found.prompt(MASK.size - 1)


def test_boxes_keep_their_place_and_clicks_are_no_regions() -> None:
    box = {"x": 10, "y": 20, "width": 30, "height": 40, "rotation": 0, "rectanglelabels": ["car"]}
    click = item("keypointlabels", "point", {"x": 5, "y": 5, "width": 1, "keypointlabels": ["car"]}) | {"id": "click"}
    found = one([item("rectanglelabels", "box", box), click])
    assert found.prompt(1).box == (10, 20, 40, 60) and not found.is_mask


def test_what_nobody_saw_is_no_review_and_a_skipped_task_says_so() -> None:
    unseen = {"id": 1, "result": [mask_item(MASK)], "parent_prediction": 5}
    skipped = {"id": 2, "result": [mask_item(MASK)], "was_cancelled": True}
    found = reviewed_regions([Annotation.model_validate(unseen), Annotation.model_validate(skipped)], task=9)
    assert [(region.annotation, region.cancelled, region.task) for region in found] == [(2, True, 9)]


def test_of_a_video_labels_and_texts() -> None:
    items: list[dict] = [
        {"id": "v", "from_name": "box", "to_name": "video", "type": "videorectangle"}
        | {"value": {"sequence": [{"frame": 1, "x": 1, "y": 1, "width": 5, "height": 5}], "labels": ["person"]}},
        {"id": "v", "from_name": "caption", "to_name": "video", "type": "textarea", "value": {"text": ["walks"]}},
    ]
    found = one(items)
    assert found.of_video and found.labels == {"box": ("person",)} and found.texts == {"caption": "walks"}


def test_what_label_studio_sent_when_somebody_corrected_a_region() -> None:
    body = json.loads((RECORDED / "webhook_updated.json").read_text())["body"]
    (found,) = reviewed_regions([Annotation.model_validate(body["annotation"])])
    assert found.labels == {"mask": ("car",), "class": ("person",)}
    assert (found.id, found.task, found.who) == ("g1", 152, 1)


def test_labels_that_leave_the_choice_to_the_model_say_nothing() -> None:
    assert without({"mask": ("object",), "class": ("car", "object")}, {"object"}) == {"class": ("car",)}


def test_strange_items_are_passed_over() -> None:
    odd: list[dict] = [{"type": "choices"}, {"id": "x", "type": "relation"}, item("textarea", "caption", {"text": 5})]
    assert reviewed_regions([Annotation.model_validate({"result": odd})]) == []
