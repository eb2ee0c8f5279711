from __future__ import annotations

from typing import Any

import pytest

from backend.errors import ConfigError, PromptError
from backend.job import RegionPrompt
from backend.label_studio.protocol import Context, ResultItem
from backend.labeling.roles import read_roles
from backend.tasks.prompts import check_names, wanted_regions
from tests.http.stack import CONFIG, SHIPPED, box, point

ROLES = read_roles(CONFIG)


def context(*regions: dict[str, Any]) -> list[ResultItem]:
    return Context.model_validate({"result": list(regions)}).result


def read(*regions: dict[str, Any]) -> list[RegionPrompt]:
    wanted, negatives = wanted_regions(context(*regions), ROLES.images["image"], 10**6)
    assert not negatives
    return [region.prompt for region in wanted]


def test_clicks_make_one_region() -> None:
    (prompt,) = read(point(10, 20), point(30, 40, positive=False), point(50, 60, label="animal"))
    assert [(p.x, p.y, p.positive) for p in prompt.points] == [(10, 20, True), (30, 40, False), (50, 60, True)]
    assert prompt.box is None and prompt.labels == ("animal",)


def test_the_enterprise_editor_says_not_this_in_the_value() -> None:
    click = point(30, 40)
    del click["is_positive"]
    click["value"]["positive"] = False
    (prompt,) = read(point(10, 20), click)
    assert [p.positive for p in prompt.points] == [True, False]


def test_a_box_with_points_is_one_region() -> None:
    (prompt,) = read(box(10, 10, 50, 50), point(30, 30, positive=False), point(90, 90, positive=False))
    assert prompt.box == (10, 10, 60, 60) and len(prompt.points) == 2 and prompt.labels == ("food",)


def test_each_box_is_a_region_and_points_go_to_the_smallest_around_them() -> None:
    large, small, loose = read(box(0, 0, 80, 80), box(10, 10, 20, 20), point(15, 15, False), point(95, 95))
    assert large.points == () and len(small.points) == 1 and not small.points[0].positive
    assert loose.box is None and loose.points[0].x == 95


def test_loose_negatives_beside_boxes_make_no_region() -> None:
    assert len(read(box(0, 0, 10, 10), box(20, 20, 10, 10), point(90, 90, positive=False))) == 2


def test_ordinary_keypoints_do_not_count_beside_smart_ones() -> None:
    (prompt,) = read(point(10, 20, positive=None), point(30, 40))
    assert [p.x for p in prompt.points] == [30]
    (alone,) = read(point(10, 20, positive=None))
    assert alone.points[0].positive


def test_an_ellipse_is_a_box() -> None:
    value = {"x": 50, "y": 40, "radiusX": 10, "radiusY": 20, "rotation": 0, "ellipselabels": ["food"]}
    (prompt,) = read(box(0, 0, 1, 1, type="ellipselabels", value=value))
    assert prompt.box == pytest.approx((40, 20, 60, 60)) and prompt.labels == ("food",)


def test_a_turned_box_becomes_its_upright_hull() -> None:
    turned = box(50, 20, 20, 10)
    turned["value"]["rotation"] = 90
    (prompt,) = read(turned)
    assert prompt.box == pytest.approx((43.3333, 20, 50, 50)), "turned in pixels: 120×40 of 600×400"


def test_rounding_at_the_edge_is_forgiven() -> None:
    (prompt,) = read(point(100.004, -0.003))
    assert (prompt.points[0].x, prompt.points[0].y) == (100, 0)


def test_leftovers_are_ignored() -> None:
    rle = {"format": "rle", "rle": [0], "keypointlabels": ["food"]}
    assert read(point(1, 1, positive=None, value=rle)) == []


def test_a_lone_negative_click_speaks_about_a_region_that_is_there() -> None:
    wanted, negatives = wanted_regions(context(point(10, 20, positive=False)), ROLES.images["image"], 10**6)
    assert not wanted and [item.value.x for item in negatives] == [10]


def test_a_mask_drawn_by_hand_keeps_its_shape_and_is_asked_for_words() -> None:
    value = {"points": [[10, 10], [50, 10], [50, 60]], "closed": True, "polygonlabels": ["animal"]}
    drawn = point(0, 0, positive=None, type="polygonlabels", from_name="poly", id="mine", value=value)
    older = drawn | {"id": "older", "value": value | {"points": [[0, 0], [9, 0], [9, 9]]}}
    wanted, _ = wanted_regions(context(older, drawn), ROLES.images["image"], 10**6)
    (region,) = wanted
    assert region.prompt.mask is not None and region.prompt.mask["size"] == [400, 600]
    assert region.prompt.labels == ("animal",)
    assert region.own[0]["value"]["points"] == value["points"] and region.own[0]["from_name"] == "poly"


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="'gone'"):
        check_names(context(point(1, 1, from_name="gone")), ROLES)
    with pytest.raises(ConfigError, match="no <Image>"):
        check_names(context(point(1, 1, to_name="mask")), ROLES)
    with pytest.raises(PromptError, match="outside"):
        read(point(101, 1))
    with pytest.raises(PromptError, match="empty or inverted"):
        read(box(1, 1, -3, 3))
    with pytest.raises(PromptError, match="draw it anew"):
        read(point(1, 1, positive=None, type="polygonlabels", value={"points": [[1, 1]]}))


def test_a_label_beside_plain_tools_is_the_annotators_choice() -> None:
    drawn = box(10, 20, 30, 40) | {"type": "rectangle", "value": {"x": 10, "y": 20, "width": 30, "height": 40}}
    chosen = drawn | {"type": "labels", "from_name": "label", "value": drawn["value"] | {"labels": ["food"]}}
    result = Context.model_validate({"result": [drawn, chosen]}).result
    ((region,), _) = wanted_regions(result, read_roles(SHIPPED).images["image"], 10**6)
    assert region.prompt.labels == ("food",) and region.prompt.box == (10, 20, 40, 60)
