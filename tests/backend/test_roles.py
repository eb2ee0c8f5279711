from __future__ import annotations

import pytest

from backend.controls.brush import Brush
from backend.controls.choices import RegionChoices
from backend.controls.textarea import RegionText
from backend.errors import ConfigError
from backend.labels import match_label
from backend.roles import read_roles
from model import Task
from tests.http.stack import CONFIG


def test_the_shipped_config() -> None:
    roles = read_roles(CONFIG)
    assert roles.images == {"image": "image"}
    assert [type(control) for control in roles.outputs] == [Brush, RegionChoices, RegionText]
    assert [control.name for control in roles.outputs_of("image")] == ["mask", "class", "caption"]


def test_geometry_comes_first_whatever_the_config_says() -> None:
    config = """<View><TextArea name="caption" toName="i" perRegion="true"/><Image name="i" value="$pic"/>
    <BrushLabels name="m" toName="i"><Label value="a"/></BrushLabels></View>"""
    roles = read_roles(config)
    assert [control.name for control in roles.outputs] == ["m", "caption"]
    assert roles.images == {"i": "pic"}


@pytest.mark.parametrize(
    ("tag", "task"),
    [
        ('name="caption"', Task.BRIEF),
        ('name="whatever"', Task.BRIEF),
        ('name="detailed_caption"', Task.DETAILED),
        ('name="definition"', Task.EXPLAIN),
        ('name="explanation"', Task.EXPLAIN),
        ('name="class_text"', Task.RECOGNIZE),
        ('name="caption" pallas="detailed"', Task.DETAILED),
        ('name="detailed" pallas="Explain"', Task.EXPLAIN),
    ],
)
def test_which_text_goes_where(tag: str, task: Task) -> None:
    config = f"""<View><Image name="i" value="$i"/><BrushLabels name="m" toName="i"><Label value="a"/></BrushLabels>
    <TextArea {tag} toName="i" perRegion="true"/></View>"""
    text = read_roles(config).outputs[-1]
    assert isinstance(text, RegionText) and text.tasks() == (task,)


def test_controls_of_the_whole_picture_are_left_alone() -> None:
    config = """<View><Image name="i" value="$i"/><BrushLabels name="m" toName="i"><Label value="a"/></BrushLabels>
    <TextArea name="t" toName="i"/><Choices name="c" toName="i"><Choice value="x"/></Choices></View>"""
    assert [control.name for control in read_roles(config).outputs] == ["m"]


def test_a_fixed_picture_is_no_variable() -> None:
    with pytest.raises(ConfigError, match="no picture"):
        read_roles('<View><Image name="i" value="http://x/y.png"/></View>')


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("car", "car"),
        ("Car.", "car"),
        ("a red sports car on a road", "sports car"),
        ("a scarf", None),
        ("", None),
        ("a dog and a cat", None),
        ("狗", "狗"),
    ],
)
def test_labels_are_matched_by_whole_words(answer: str, label: str | None) -> None:
    assert match_label(answer, ["car", "sports car", "dog", "cat", "狗"]) == label
