"""Several pictures in one task: in one <Image> (`valueList`), and in a <Repeater>."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backend.errors import ConfigError
from backend.labeling.roles import read_roles
from tests.conftest import PICTURES
from tests.http.stack import Stack, data_url
from tests.http.test_cases import case, post

COFFEE, CHELSEA = ((PICTURES / name).read_bytes() for name in ("coffee.jpg", "chelsea.jpg"))
SIZES = [(600, 400), (451, 300)]


def sized(item: dict[str, Any]) -> tuple[int, int]:
    return item["original_width"], item["original_height"]


def pages(name: str) -> dict[str, Any]:
    """A case with two pictures of different sizes."""
    body = case(name)
    urls = [data_url(COFFEE, "image/jpeg"), data_url(CHELSEA, "image/jpeg")]
    data = body["tasks"][0]["data"]
    if "images" in data:
        data["images"] = urls
    else:
        data["document"] = [{"page": url} for url in urls]
    return body


@pytest.fixture(scope="module")
def size_of_chelsea(stack: Stack) -> tuple[int, int]:
    body = pages("C15-valueList")
    body["params"]["context"]["result"][0]["item_index"] = 1
    return sized(post(stack, body)[0])


@pytest.mark.parametrize("page", [0, 1])
def test_a_click_is_answered_on_the_picture_it_fell_on(
    stack: Stack, size_of_chelsea: tuple[int, int], page: int
) -> None:
    body = pages("C15-valueList")
    body["params"]["context"]["result"][0]["item_index"] = page
    (mask,) = post(stack, body)
    assert mask["item_index"] == page and sized(mask) == ((600, 400), size_of_chelsea)[page]
    assert size_of_chelsea != (600, 400)


def test_clicks_on_another_picture_are_not_of_this_region(stack: Stack) -> None:
    body = pages("C15-valueList")
    (click,) = body["params"]["context"]["result"]
    alone = post(stack, body)[0]["value"]["rle"]
    other = json.loads(json.dumps(click)) | {"id": "other", "item_index": 1}
    other["value"] |= {"x": 5, "y": 5}
    body["params"]["context"]["result"] = [other, click]
    (mask,) = post(stack, body)
    assert (mask["item_index"], mask["value"]["rle"]) == (0, alone)


def test_a_picture_that_the_task_does_not_have(stack: Stack) -> None:
    body = pages("C15-valueList")
    body["params"]["context"]["result"][0]["item_index"] = 7
    answer = stack.post("/predict", json=body)
    assert answer.status_code == 400 and "picture 8" in answer.json()["error"]["message"]


def test_a_lone_negative_corrects_a_region_of_its_own_picture(stack: Stack) -> None:
    body = pages("C15-valueList")
    body["tasks"][0]["id"] = 4711
    (click,) = body["params"]["context"]["result"]
    click["item_index"] = 1
    (mask,) = post(stack, body)
    negative = click | {"is_positive": False, "id": "n"}
    body["params"]["context"]["result"] = [negative | {"item_index": 0}]
    answer = stack.post("/predict", json=body)
    assert answer.status_code == 400 and "not this" in answer.json()["error"]["message"], "no region on that picture"
    body["params"]["context"]["result"] = [negative]
    (corrected,) = post(stack, body)
    assert corrected["id"] == mask["id"] and corrected["item_index"] == 1


def test_every_picture_gets_what_it_lacks(stack: Stack, size_of_chelsea: tuple[int, int]) -> None:
    body = pages("C15-valueList")
    (click,) = body["params"]["context"]["result"]
    drawn = [click | {"id": "a", "item_index": 0}, click | {"id": "b", "item_index": 1}]
    body["params"]["context"] = None
    body["tasks"][0]["annotations"] = [{"id": 1, "result": drawn}]
    masks = post(stack, body)
    assert [(mask["item_index"], sized(mask)) for mask in masks] == [(0, (600, 400)), (1, size_of_chelsea)]


def test_words_about_each_picture_and_about_all(stack: Stack) -> None:
    words = (
        '<TextArea name="each" toName="image" perItem="true"/><TextArea name="all" toName="image"/>'
        '<TextArea name="of" toName="image" perRegion="true"/></View>'
    )
    body = pages("C15-valueList")
    body["label_config"] = body["label_config"].replace("</View>", words)
    body["params"]["context"]["result"][0]["item_index"] = 1
    clicked = post(stack, body)
    assert [(item["from_name"], item.get("item_index")) for item in clicked] == [("mask", 1), ("of", 1), ("each", 1)]
    body["params"]["context"] = None
    said = [(item["from_name"], item.get("item_index")) for item in post(stack, body)]
    assert sorted(said, key=str) == [("all", None), ("each", 0), ("each", 1)]
    each = {"id": "t", "from_name": "each", "to_name": "image", "type": "textarea", "value": {"text": ["x"]}}
    body["tasks"][0]["annotations"] = [{"id": 1, "result": [each | {"item_index": 1}]}]
    said = [(item["from_name"], item.get("item_index")) for item in post(stack, body)]
    assert sorted(said, key=str) == [("all", None), ("each", 0)]


def test_a_click_on_a_page_of_a_repeater(stack: Stack, size_of_chelsea: tuple[int, int]) -> None:
    (mask,) = post(stack, pages("C3-repeater"))
    assert (mask["from_name"], mask["to_name"], sized(mask)) == ("mask_1", "page_1", size_of_chelsea)
    assert mask["value"]["brushlabels"] == ["stamp"]


def test_pages_of_a_repeater_without_a_click(stack: Stack, size_of_chelsea: tuple[int, int]) -> None:
    body = pages("C3b-repeater-batch")
    body["tasks"][0]["id"] = 4712  # of a task in which nobody clicked: what is in the work is no undecided prompt
    (mask,) = post(stack, body)
    assert (mask["from_name"], mask["to_name"], sized(mask)) == ("mask_1", "page_1", size_of_chelsea)
    (click,) = body["tasks"][0]["annotations"][0]["result"]
    other = click | {"id": "q", "from_name": "point_0", "to_name": "page_0"}
    body["tasks"][0]["annotations"][0]["result"] = [other, click]
    assert [item["from_name"] for item in post(stack, body)] == ["mask_0", "mask_1"]


def test_a_prompt_on_a_page_that_is_not_there_is_refused(stack: Stack) -> None:
    body = pages("C3-repeater")
    body["tasks"][0]["data"]["document"].pop()
    answer = stack.post("/predict", json=body)
    assert answer.status_code == 400 and "point_1" in answer.json()["error"]["message"]


def test_repeaters_within_repeaters_and_flags_of_their_own() -> None:
    config = """<View><Repeater on="$books" indexFlag="{{b}}"><Repeater on="$books[{{b}}].pages" indexFlag="{{p}}">
    <Image name="i_{{b}}_{{p}}" value="$books[{{b}}].pages[{{p}}]"/>
    <Brush name="m_{{b}}_{{p}}" toName="i_{{b}}_{{p}}"/></Repeater></Repeater></View>"""
    data = {"books": [{"pages": ["u", "v"]}, {"pages": ["w"]}]}
    images = read_roles(config).of(data).images
    assert {name: image.picture(data) for name, image in images.items()} == {"i_0_0": "u", "i_0_1": "v", "i_1_0": "w"}
    assert [image.geometry[0].name for image in images.values()] == ["m_0_0", "m_0_1", "m_1_0"]


def test_too_many_pages_are_an_error_that_says_so() -> None:
    body = case("C3-repeater")
    with pytest.raises(ConfigError, match="501 pages"):
        read_roles(body["label_config"]).of({"document": [{"page": "x"}] * 501})
    listed = read_roles(case("C15-valueList")["label_config"]).images["image"]
    with pytest.raises(ConfigError, match="501 pictures"):
        listed.pages({"images": ["x"] * 501})
