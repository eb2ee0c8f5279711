"""Requests that came out wrong once, each as somebody's labelling config made Label Studio send it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from label_studio_sdk.label_interface.interface import LabelInterface

from backend.label_studio.protocol import PredictRequest, parse
from backend.labeling.roles import read_roles
from backend.tasks.prompts import wanted_regions
from tests.http.stack import Stack

CASES = Path(__file__).parent / "cases"


def case(name: str) -> dict[str, Any]:
    body: dict[str, Any] = json.loads((CASES / f"{name}.json").read_text())
    return body


def post(stack: Stack, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The answer's items."""
    answer = stack.post("/predict", json=body)
    assert answer.status_code == 200, answer.text
    result: list[dict[str, Any]] = answer.json()["results"][0]["result"]
    return result


def labels(items: list[dict[str, Any]], control: str) -> Any:
    """What the item of a control says; None where it has none."""
    for item in items:
        if item["from_name"] == control:
            key = {"textarea": "text"}.get(item["type"], item["type"])
            return item["value"][key]
    return None


def clicked(body: dict[str, Any], label: str) -> dict[str, Any]:
    """The same request with another label chosen."""
    (prompt,) = body["params"]["context"]["result"]
    for key in set(prompt["value"]) & {"labels", "keypointlabels", "rectanglelabels"}:
        prompt["value"][key] = [label]
    return body


@pytest.mark.parametrize(("name", "written"), [("C8-alias-click", "1_brush"), ("C8c-alias-click-person", "2_brush")])
def test_a_label_is_the_same_by_its_value_whatever_alias_a_control_gives_it(
    stack: Stack, name: str, written: str
) -> None:
    assert labels(post(stack, case(name)), "brush") == [written]
    box = case(name)
    value = {"x": 25, "y": 20, "width": 50, "height": 60, "rotation": 0, "rectanglelabels": [f"{written[0]}_rect"]}
    box["params"]["context"]["result"][0] |= {"from_name": "box", "type": "rectanglelabels", "value": value}
    del box["params"]["context"]["result"][0]["is_positive"]
    assert labels(post(stack, box), "brush") == [written]


def test_a_choice_with_an_alias_is_matched_by_its_value_too(stack: Stack) -> None:
    body = case("C8c-alias-click-person")
    choices = '<Choices name="c" toName="image" perRegion="true"><Choice value="person" alias="p"/></Choices></View>'
    body["label_config"] = body["label_config"].replace("</View>", choices)
    assert labels(post(stack, body), "c") == ["p"]


@pytest.mark.parametrize("label", ["car ", "dog"])
def test_blanks_of_a_label_are_a_part_of_it(stack: Stack, label: str) -> None:
    assert labels(post(stack, clicked(case("C23-blank"), label)), "mask") == [label]


@pytest.mark.parametrize("around", ["", "<View><Header value='x'/>"])
def test_grouped_labels_count_in_document_order(stack: Stack, around: str) -> None:
    body = case("C4-grouped")
    assert labels(post(stack, body), "mask") == ["cat"]
    dog = clicked(case("C4-grouped"), "dog")
    assert (labels(post(stack, dog), "mask"), labels(post(stack, dog), "kind")) == (["dog"], ["dog"])
    roles = read_roles(body["label_config"]).images["image"]
    assert [candidate.label for candidate in roles.geometry[0].labels.candidates] == ["cat", "dog"]
    mixed = '<Labels name="l" toName="i"><Label value="a"/><View><Label value="b"/></View><Label value="c"/></Labels>'
    plain = read_roles(f'<View><Image name="i" value="$i"/>{mixed}<Brush name="m" toName="i"/></View>').images["i"]
    assert [candidate.label for candidate in plain.words[0].labels.candidates] == ["a", "b", "c"]


def test_labels_that_come_from_the_task(stack: Stack) -> None:
    items = post(stack, case("C5-dynamic"))
    assert items[0]["type"] == "brushlabels" and labels(items, "mask") == ["Local brand"]
    strange = clicked(case("C5-dynamic"), "a brand of another task")
    assert labels(post(stack, strange), "mask") in ([], ["Big brand"], ["Local brand"])
    without = case("C5-dynamic")
    del without["tasks"][0]["data"]["brands"]
    items = post(stack, without)
    assert items[0]["type"] == "brushlabels" and labels(items, "mask") == []


def test_choices_of_the_task_are_offered_to_the_model() -> None:
    body = case("C5-dynamic")
    roles = read_roles(body["label_config"]).of(body["tasks"][0]["data"])
    (kind,) = roles.images["image"].words
    assert [candidate.label for candidate in kind.labels.candidates] == ["round", "square"]
    tree = '<Taxonomy name="t" toName="i" perRegion="true" value="$tree"/><Brush name="m" toName="i"/>'
    config = f'<View><Image name="i" value="$i"/>{tree}</View>'
    data = {"tree": [{"value": "animal", "children": [{"value": "dog", "alias": "d"}]}, {"value": "food"}]}
    (found,) = read_roles(config).of(data).images["i"].words
    assert [candidate.names for candidate in found.labels.candidates] == [("dog", "d"), ("food",)]
    assert not read_roles(config).of({}).images["i"].words[0].labels


def test_two_labels_on_one_prompt(stack: Stack) -> None:
    assert labels(post(stack, case("C21-two-labels")), "mask") == ["car", "damaged"]
    single = case("C21-two-labels")
    single["label_config"] = single["label_config"].replace(
        '<BrushLabels name="mask" toName="image" smart="false" choice="multiple">',
        '<BrushLabels name="mask" toName="image" smart="false">',
    )
    assert labels(post(stack, single), "mask") == ["car"]


def test_a_taxonomys_names_may_look_like_paths(stack: Stack) -> None:
    body = case("C6-taxonomy")
    body["label_config"] = body["label_config"].replace('value="t"', 'value="Truck / Lorry"')
    items = post(stack, clicked(body, "Truck / Lorry"))
    assert labels(items, "tree") == [["vehicle", "Truck / Lorry"]]
    whole = post(stack, case("C6-taxonomy") | {"params": {"context": None}})
    assert labels(whole, "all") == [["In / Out"]]


@pytest.mark.parametrize(
    ("name", "choices", "said"),
    [
        ("C17-allowNested", '<Choice value="animal"><Choice value="dog"/></Choice>', [["animal", "dog"]]),
        ("C17-allowNested", '<Choice value="big"/>', [["big"]]),
        # what is nested without allowNested is not offered by Label Studio
        ("C17b-not-nested", '<Choice value="animal"><Choice value="dog"/></Choice>', ["animal"]),
    ],
)
def test_nested_choices(stack: Stack, name: str, choices: str, said: Any) -> None:
    body = case(name)
    before, _, rest = body["label_config"].partition('perRegion="true"')
    head, _, _ = rest.partition(">")
    body["label_config"] = f'{before}perRegion="true"{head}>{choices}</Choices></View>'
    body["label_config"] = body["label_config"].replace("<Choice ", '<Choice predicted_values="t" ')
    assert labels(post(stack, body), "kind") == said


def test_attributes_and_tags_in_any_case(stack: Stack) -> None:
    items = post(stack, case("C19-case"))
    assert labels(items, "caption") and len({item["id"] for item in items}) == 1
    lower = case("C19-case")
    lower["label_config"] = lower["label_config"].replace("toName", "toname").replace("BrushLabels", "brushlabels")
    assert labels(post(stack, lower), "mask") == ["t"]
    video = '<view><video name="v" value="$v" framerate="10"/><videorectangle name="b" toname="v"/></view>'
    assert read_roles(video).videos["v"].rate({}) == 10


def test_only_controls_that_label_studio_shows_are_filled(stack: Stack) -> None:
    person = post(stack, case("C7-conditional"))
    assert [item["from_name"] for item in person] == ["mask", "pose"]
    car = post(stack, clicked(case("C7-conditional"), "car"))
    assert {item["from_name"] for item in car} == {"mask", "body", "plate"}


def test_what_is_not_shown_is_not_missing(stack: Stack) -> None:
    body = clicked(case("C7-conditional"), "person")
    items = post(stack, body)
    body["tasks"][0]["annotations"] = [{"id": 1, "result": items}]
    answer = stack.post("/predict", json=body | {"params": {"context": None}})
    assert answer.json()["results"] == [[]], "the region has everything that Label Studio shows for it"


def test_a_turned_box_is_turned_in_pixels() -> None:
    asked = parse(PredictRequest, case("c1-turned"))
    assert asked.params.context is not None
    image = read_roles(asked.label_config).images["image"]
    (wanted,), _ = wanted_regions(asked.params.context.result, image, 10**6)
    assert wanted.prompt.box == pytest.approx((10, 20, 20, 80))


@pytest.mark.parametrize("name", ["C12-crlf", "C12-no-padding", "C12-percent", "C12-wrapped"])
def test_data_urls_as_a_browser_shows_them(stack: Stack, name: str) -> None:
    assert post(stack, case(name))


@pytest.mark.parametrize(
    ("value", "data"),
    [
        ("$photo.url", None),
        ("$pages[0].src", {"pages": [{"src": "URL"}]}),
        ("$a.b.c", {"a": {"b": {"c": "URL"}}}),
        ("$photo.url", {"photo.url": "URL", "photo": {"url": "not this"}}),
    ],
)
def test_pictures_deep_in_the_data(stack: Stack, value: str, data: dict[str, Any] | None) -> None:
    body = case("C24-nested")
    url = body["tasks"][0]["data"]["photo"]["url"]
    body["label_config"] = body["label_config"].replace("$photo.url", value)
    if data is not None:
        body["tasks"][0]["data"] = json.loads(json.dumps(data).replace("URL", url))
    assert post(stack, body)[0]["from_name"] == "mask"


def test_the_newest_work_counts(stack: Stack) -> None:
    items = post(stack, case("C20-old-draft"))
    assert labels(items, "mask") == ["car"], "the old draft has 'damaged'"


@pytest.mark.parametrize("kind", ["Brush", "Polygon", "Rectangle", "Bitmask"])
def test_labels_beside_a_plain_tool_have_the_geometry_too(stack: Stack, kind: str) -> None:
    config = (
        '<View><Image name="image" value="$image"/><KeyPointLabels name="point" toName="image" smart="true">'
        '<Label value="a"/></KeyPointLabels>'
        '<Labels name="l" toName="image"><Label value="a"/><Label value="b"/></Labels>'
        f'<{kind} name="m" toName="image" smart="false"/></View>'
    )
    body = clicked(case("C12-no-padding"), "a") | {"label_config": config}
    shape, label = post(stack, body)
    assert (shape["type"], label["type"], label["value"]["labels"]) == (kind.lower(), "labels", ["a"])
    assert label["value"] == shape["value"] | {"labels": ["a"]}
    if kind in ("Brush", "Polygon", "Rectangle"):
        problems = LabelInterface(config).validate_prediction({"result": [shape, label]}, return_errors=True)
        assert not problems, problems
