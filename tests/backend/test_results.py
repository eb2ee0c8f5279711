from __future__ import annotations

import numpy as np
import pytest

from backend.job import JobReply, RegionPrompt, RegionReply, TextReply
from backend.results import shape
from backend.roles import read_roles
from model import Task
from model.mask import to_coco_rle
from tests.http.stack import CONFIG

ROLES = read_roles(CONFIG)


def region(said: str = "animal", caption: str = "a cat", empty: bool = False, iou: float = 0.9) -> RegionReply:
    mask = np.zeros((20, 30), bool)
    mask[5:10, 5:15] = not empty
    texts = {Task.RECOGNIZE: TextReply(string=said, score=0.8), Task.BRIEF: TextReply(string=caption, score=0.5)}
    return RegionReply(mask=to_coco_rle(mask), area=int(mask.sum()), iou=iou, object_score=5.0, texts=texts)


def answer(*regions: RegionReply, label: str | None = None):  # type: ignore[no-untyped-def]
    reply = JobReply(width=30, height=20, regions=regions, seconds={}, model_version="m@1", cached=False)
    return shape(reply, [RegionPrompt(label=label)] * len(regions), ROLES.outputs)


def test_one_id_geometry_first_texts_as_lists() -> None:
    items = answer(region(), label="object").result
    assert [item["type"] for item in items] == ["brushlabels", "choices", "textarea"]
    assert len({item["id"] for item in items}) == 1
    assert items[0]["value"]["brushlabels"] == ["object"]  # the annotator's own choice wins
    assert items[1]["value"] == {"choices": ["animal"]}
    assert items[2]["value"] == {"text": ["a cat"]}
    assert [item["score"] for item in items] == [0.9, 0.8, 0.5]


@pytest.mark.parametrize(
    ("said", "label", "brush", "choices"),
    [
        ("animal", None, ["animal"], [["animal"]]),
        ("zebra", None, [], []),
        ("zebra", "object", ["object"], []),
        ("zebra", "label that the config lacks", [], []),
        ("a food item", "gone", ["food"], [["food"]]),
    ],
)
def test_never_a_label_that_the_config_lacks(
    said: str, label: str | None, brush: list[str], choices: list[list[str]]
) -> None:
    items = answer(region(said), label=label).result
    assert items[0]["value"]["brushlabels"] == brush
    assert [item["value"]["choices"] for item in items if item["type"] == "choices"] == choices
    assert items[0]["meta"] == {"text": [said]}


def test_the_least_certain_region_gives_the_score() -> None:
    assert answer(region(iou=0.9), region(iou=0.4)).score == 0.4


def test_of_two_brushes_the_one_with_the_label_gets_the_mask() -> None:
    config = """<View><Image name="i" value="$i"/><BrushLabels name="a" toName="i"><Label value="x"/></BrushLabels>
    <BrushLabels name="b" toName="i"><Label value="y"/></BrushLabels></View>"""
    reply = JobReply(width=30, height=20, regions=(region(),), seconds={}, model_version="m@1", cached=False)
    for label, name in (("y", "b"), ("x", "a"), (None, "a")):
        (item,) = shape(reply, [RegionPrompt(label=label)], read_roles(config).outputs).result
        assert item["from_name"] == name


def test_an_empty_mask_is_no_region() -> None:
    found = answer(region(empty=True), region())
    assert len({item["id"] for item in found.result}) == 1
    nothing = answer(region(empty=True))
    assert nothing.result == [] and nothing.score is None
