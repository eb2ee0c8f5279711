from __future__ import annotations

import pytest

from backend.errors import ConfigError
from backend.labeling.controls.choices import Choices
from backend.labeling.controls.taxonomy import Taxonomy
from backend.labeling.controls.textarea import TextArea
from backend.labeling.labels import path
from backend.labeling.roles import read_roles
from model import Task
from tests.http.stack import CONFIG, SHIPPED

BRUSH = '<BrushLabels name="m" toName="i"><Label value="a"/></BrushLabels>'


def image(body: str, attributes: str = "", language: str = "en"):  # type: ignore[no-untyped-def]
    return read_roles(f'<View><Image name="i" value="$i" {attributes}/>{body}</View>', language).images["i"]


def names(controls) -> list[str]:  # type: ignore[no-untyped-def]
    return [control.name for control in controls]


def test_the_shipped_config() -> None:
    (found,) = read_roles(SHIPPED).images.values()
    assert names(found.geometry) == ["mask"] and names(found.words) == ["label", "caption"] and not found.whole
    assert found.notice == "message"


def test_labels_on_the_tools() -> None:
    roles = read_roles(CONFIG)
    (found,) = roles.images.values()
    assert (found.name, found.key) == ("image", "image")
    assert names(found.geometry) == ["mask"] and names(found.words) == ["class", "caption"] and not found.whole
    assert {"point", "box", "mask", "class", "caption"} <= roles.controls


def test_several_pictures_have_controls_of_their_own() -> None:
    roles = read_roles(
        """<View><Image name="a" value="$one"/><Image name="b" value="$two"/>
        <BrushLabels name="ma" toName="a"><Label value="x"/></BrushLabels>
        <PolygonLabels name="pb" toName="b"><Label value="x"/></PolygonLabels>
        <TextArea name="tb" toName="b" perRegion="true"/></View>"""
    )
    assert names(roles.images["a"].geometry) == ["ma"] and not roles.images["a"].words
    assert roles.images["b"].key == "two"
    assert names(roles.images["b"].geometry) == ["pb"] and names(roles.images["b"].words) == ["tb"]


@pytest.mark.parametrize("kind", ["Brush", "Bitmask", "Polygon", "Vector", "Rectangle"])
@pytest.mark.parametrize("labelled", [True, False])
def test_what_receives_masks(kind: str, labelled: bool) -> None:
    tag = f'<{kind}Labels name="g" toName="i"><Label value="a"/></{kind}Labels>' if labelled else ""
    (found,) = image(
        tag or f'<Labels name="l" toName="i"><Label value="a"/></Labels><{kind} name="g" toName="i"/>'
    ).geometry
    assert found.name == "g" and bool(found.labels) is labelled


def test_a_rectangle_beside_a_brush_is_a_prompt_and_alone_an_answer() -> None:
    rectangle = '<RectangleLabels name="r" toName="i"><Label value="a"/></RectangleLabels>'
    assert names(image(rectangle + BRUSH).geometry) == ["m"]
    assert names(image(rectangle).geometry) == ["r"]


def test_of_several_mask_controls_the_one_with_the_label_and_else_the_marked_one() -> None:
    polygon = '<PolygonLabels name="p" toName="i" {}><Label value="b"/></PolygonLabels>'
    both = image(BRUSH + polygon.format(""))
    assert [both.geometry_for(labels).name for labels in (("a",), ("b",), (), ("zebra",))] == ["m", "p", "m", "m"]
    marked = image(BRUSH + polygon.format('pallas="mask"'))
    assert [marked.geometry_for(labels).name for labels in (("a",), ())] == ["m", "p"]


def test_a_control_can_be_switched_off() -> None:
    found = image(BRUSH + '<TextArea name="t" toName="i" perRegion="true" pallas="off"/><Choices name="c" toName="i"/>')
    assert not found.words and names(found.whole) == ["c"]


@pytest.mark.parametrize(
    ("tag", "task", "language"),
    [
        ('name="caption"', Task.BRIEF, "en"),
        ('name="whatever"', Task.BRIEF, "en"),
        ('name="detailed_caption"', Task.DETAILED, "en"),
        ('name="definition"', Task.EXPLAIN, "en"),
        ('name="explanation"', Task.EXPLAIN, "en"),
        ('name="class_text"', Task.RECOGNIZE, "en"),
        ('name="caption_zh"', Task.BRIEF, "zh"),
        ('name="chinese_details"', Task.DETAILED, "zh"),
        ('name="jazzhands"', Task.BRIEF, "en"),
        ('name="caption" pallas="detailed"', Task.DETAILED, "en"),
        ('name="detailed" pallas="Explain zh"', Task.EXPLAIN, "zh"),
        ('name="caption_zh" pallas="en"', Task.BRIEF, "en"),
    ],
)
@pytest.mark.parametrize("per_region", [True, False])
def test_which_text_goes_where(tag: str, task: Task, language: str, per_region: bool) -> None:
    found = image(f'{BRUSH}<TextArea {tag} toName="i" perRegion="{str(per_region).lower()}"/>')
    (text,) = found.words if per_region else found.whole
    assert isinstance(text, TextArea) and (text.ask.task, text.ask.language) == (task, language)


def test_the_settings_language_is_for_tags_that_do_not_say() -> None:
    (text,) = image(BRUSH + '<TextArea name="caption" toName="i" perRegion="true"/>', language="zh").words
    assert isinstance(text, TextArea) and text.ask.language == "zh"


def test_labels_have_aliases_and_synonyms() -> None:
    (found,) = image(
        """<BrushLabels name="m" toName="i"><Label value="Car" alias="car_1" predicted_values="automobile, van"/>
        <Label value="thing" pallas="auto"/></BrushLabels>"""
    ).geometry
    car, thing = found.labels.candidates
    assert (car.label, car.names) == ("car_1", ("Car", "car_1", "automobile", "van"))
    assert (thing.label, thing.names) == ("thing", ("thing",))
    assert found.labels.fixed(["Car"]) == found.labels.fixed(["car_1"]) == ("car_1",)
    assert found.labels.fixed(["thing"]) == found.labels.fixed(["zebra"]) == ()


def test_a_taxonomy_is_answered_with_the_path_to_a_leaf() -> None:
    (found,) = image(
        BRUSH
        + """<Taxonomy name="t" toName="i" perRegion="true"><Choice value="animal"><Choice value="dog"/>
        <Choice value="cat" alias="felis"/></Choice><Choice value="food"/></Taxonomy>"""
    ).words
    assert isinstance(found, Taxonomy)
    assert [path(c.label) for c in found.labels.candidates] == [["animal", "dog"], ["animal", "felis"], ["food"]]
    assert found.labels.candidates[1].names == ("cat", "felis")


def test_questions_are_asked_once() -> None:
    found = image(
        BRUSH
        + """<Choices name="c" toName="i" perRegion="true"><Choice value="a"/></Choices>
        <TextArea name="one" toName="i" perRegion="true"/><TextArea name="two" toName="i" perRegion="true"/>"""
    )
    group = found.ask([()])
    assert len(group.label_sets) == 1 and [text.key for text in group.texts] == ["recognize.en", "brief.en"]
    # the model need not choose where the annotator has
    assert found.ask([("a",)]).label_sets == ()
    assert len(found.ask([("a",), ()]).label_sets) == 1
    assert len(found.ask([], propose=True).label_sets) == 1


def test_chinese_labels_are_asked_in_chinese() -> None:
    (found,) = image('<Choices name="c" toName="i"><Choice value="狗"/><Choice value="猫"/></Choices>').whole
    assert isinstance(found, Choices) and found.labels.label_set.language == "zh"


def test_regions_are_proposed_where_the_picture_asks_for_it() -> None:
    assert image(BRUSH, 'pallas="propose"').propose and not image(BRUSH).propose


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ('<View><Image name="i" value="http://x/y.png"/></View>', "no picture"),
        ('<View><Image name="i" value="$i"/></View>', "no control for masks"),
        ('<View><Image name="i" value="$i"/><KeyPointLabels name="k" toName="i"/></View>', "no control for masks"),
        ('<View><Image name="i" value="$i"/>', "cannot be read"),
        ('<!DOCTYPE a><View><Image name="i" value="$i"/></View>', "document type"),
    ],
)
def test_refusals_say_what_to_add(config: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        read_roles(config)


def test_a_config_without_masks_but_with_words_about_the_picture_works() -> None:
    found = image('<TextArea name="t" toName="i"/>')
    assert not found.geometry and names(found.whole) == ["t"]
