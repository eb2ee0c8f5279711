from __future__ import annotations

import numpy as np
import pytest

from backend.job import JobReply, LabelReply, RegionPrompt, RegionReply, TextReply
from backend.label_studio.protocol import Prediction
from backend.labeling.controls import ShapingOptions
from backend.labeling.roles import ImageRoles, read_roles
from backend.tasks.results import Shaper, Words
from backend.tasks.wanted import WantedRegion
from model.values.mask import from_rle, to_rle
from tests.http.stack import CONFIG, SHIPPED

IMAGE = read_roles(CONFIG).images["image"]


def region(
    best: str = "animal", probability: float = 0.8, said: str = "cat", empty: bool = False, iou: float = 0.9
) -> RegionReply:
    mask = np.zeros((20, 30), bool)
    mask[5:10, 5:15] = not empty
    texts = {"recognize.en": TextReply(string=said, score=0.8), "brief.en": TextReply(string="a cat", score=0.5)}
    labels = (LabelReply(label=best, probability=probability),)
    return RegionReply(mask=to_rle(mask), area=int(mask.sum()), iou=iou, object_score=5.0, texts=texts, labels=labels)


def reply(*regions: RegionReply) -> JobReply:
    return JobReply(width=30, height=20, groups=(regions,), seconds={}, model_version="m@1", cached=False)


def answer(*regions: RegionReply, label: str | None = None, image=IMAGE) -> tuple[Prediction, Shaper]:  # type: ignore[no-untyped-def]
    # one unlabelled prompt beside it, so that the label sets are asked
    chosen = () if label is None else (label,)
    group = image.ask([chosen, ()])
    shaper = Shaper(ShapingOptions())
    shaper.regions(reply(*regions), image, group, [WantedRegion(RegionPrompt(labels=chosen)) for _ in regions], regions)
    return shaper.prediction("m@1"), shaper


def test_one_id_geometry_first_texts_as_lists() -> None:
    items = answer(region())[0].result
    assert [item["type"] for item in items] == ["brushlabels", "choices", "textarea"]
    assert len({item["id"] for item in items}) == 1
    assert items[0]["value"]["brushlabels"] == ["animal"] and items[0]["meta"] == {"text": ["cat"]}
    assert items[1]["value"] == {"choices": ["animal"]}
    assert items[2]["value"] == {"text": ["a cat"]}
    assert [item["score"] for item in items][1:] == [0.8, 0.5] and 0 < items[0]["score"] < 1


def test_a_text_that_was_cut_says_so() -> None:
    found = region()
    texts = found.texts | {"brief.en": TextReply(string="a cat that", score=0.5, finished=False)}
    items = answer(found.model_copy(update={"texts": texts}))[0].result
    note = "brief: cut off at its limit of tokens"
    assert items[0]["meta"] == {"text": ["cat", note]} and items[2]["meta"] == {"text": [note]}
    assert items[2]["value"] == {"text": ["a cat that"]}


@pytest.mark.parametrize(
    ("best", "probability", "label", "expected"),
    [
        ("animal", 0.8, None, "animal"),
        ("animal", 0.39, None, None),  # below the threshold: no label, the free word stays in meta
        ("animal", 0.8, "food", "food"),  # the annotator's own choice wins
        ("animal", 0.8, "label that the config lacks", "animal"),
        ("zebra", 0.9, None, None),  # never a label that the config lacks
        ("animal", 0.8, "object", "animal"),  # the config leaves the choice to the model
        ("animal", 0.1, "object", "object"),
    ],
)
def test_which_label(best: str, probability: float, label: str | None, expected: str | None) -> None:
    items = answer(region(best, probability, said="zebra"), label=label)[0].result
    assert items[0]["value"]["brushlabels"] == ([] if expected is None else [expected])
    choices = [item["value"]["choices"] for item in items if item["type"] == "choices"]
    assert choices == ([] if expected is None else [[expected]])
    assert items[0]["meta"] == {"text": ["zebra"]}


def test_the_least_certain_region_gives_the_score() -> None:
    surer, doubtful = (answer(region(iou=iou))[0] for iou in (0.9, 0.4))
    assert surer.score == surer.result[0]["score"] and doubtful.score == doubtful.result[0]["score"]
    assert doubtful.score is not None and surer.score is not None and doubtful.score < surer.score
    assert answer(region(iou=0.9), region(iou=0.4))[0].score == doubtful.score


def test_an_empty_mask_is_no_region() -> None:
    found, _ = answer(region(empty=True), region())
    assert len({item["id"] for item in found.result}) == 1
    nothing, shaper = answer(region(empty=True))
    assert nothing.result == [] and nothing.score is None and not shaper.remembered


def test_what_a_person_drew_stays_and_only_what_is_missing_is_filled_in() -> None:
    own = (
        {"id": "mine", "from_name": "hand", "to_name": "image", "type": "polygonlabels", "value": {"points": [[1, 2]]}},
        {"id": "mine", "from_name": "class", "to_name": "image", "type": "choices", "value": {"choices": ["food"]}},
    )
    shaper = Shaper(ShapingOptions())
    shaper.regions(
        reply(region()),
        IMAGE,
        IMAGE.ask([()]),
        [WantedRegion(RegionPrompt(mask=region().mask), own, id="new")],
        [region()],
    )
    items = shaper.prediction("m@1").result
    assert [item["from_name"] for item in items] == ["hand", "class", "caption"]
    assert {item["id"] for item in items} == {"new"}
    assert items[0]["value"] == {"points": [[1, 2]]} and items[1]["value"] == {"choices": ["food"]}


def test_what_is_remembered() -> None:
    _, shaper = answer(region())
    (kept,) = shaper.remembered
    assert kept.labels == {"mask": "animal", "class": "animal"} and kept.texts == {"caption": "a cat"}
    assert kept.mask is not None and from_rle(kept.mask).sum() == 50


def test_labels_beside_a_plain_brush_and_a_taxonomy() -> None:
    image = read_roles(
        """<View><Image name="image" value="$image"/><Labels name="l" toName="image"><Label value="animal"/>
        <Label value="food"/></Labels><Brush name="b" toName="image"/>
        <Taxonomy name="t" toName="image" perRegion="true"><Choice value="living"><Choice value="cat"/></Choice>
        <Choice value="food"/></Taxonomy></View>"""
    ).images["image"]
    found = region().model_copy(
        update={
            "labels": (
                LabelReply(label="animal", probability=0.7),
                LabelReply(label="living\x1fcat", probability=0.9),
            )
        }
    )
    items = answer(found, image=image)[0].result
    assert [item["type"] for item in items] == ["brush", "labels", "taxonomy"]
    assert items[0]["value"]["format"] == "rle" and "brushlabels" not in items[0]["value"]
    # the geometry in both, as Label Studio's own: its exports read it from the second
    assert items[1]["value"] == items[0]["value"] | {"labels": ["animal"]}
    assert items[2]["value"] == {"taxonomy": [["living", "cat"]]}


def test_words_about_the_whole_picture_have_no_geometry_and_ids_of_their_own() -> None:
    image = read_roles(
        """<View><Image name="image" value="$image"/><TextArea name="t" toName="image"/>
        <Choices name="c" toName="image"><Choice value="animal"/></Choices></View>"""
    ).images["image"]
    shaper = Shaper(ShapingOptions())
    shaper.whole(reply(region()), image, image.ask_whole(), region())
    choices, text = shaper.prediction("m@1").result
    assert choices["value"] == {"choices": ["animal"]} and text["value"] == {"text": ["a cat"]}
    assert choices["id"] != text["id"] and "original_width" not in text


def test_proposals_are_filtered_by_the_configs_labels() -> None:
    regions = [region("animal", 0.8), region("animal", 0.2), region("food", 0.5)]
    group = IMAGE.ask([], propose=True)
    shaper = Shaper(ShapingOptions())
    shaper.regions(reply(*regions), IMAGE, group, [WantedRegion(RegionPrompt())] * 3, regions)
    masks = [item for item in shaper.prediction("m@1").result if item["type"] == "brushlabels"]
    assert [item["value"]["brushlabels"] for item in masks] == [["animal"], ["food"]]


PLAIN = read_roles(SHIPPED).images["image"]


@pytest.mark.parametrize(
    ("best", "probability", "label", "expected"),
    [
        ("animal", 0.8, None, Words("animal", 0.8, "cat", "a cat")),
        ("animal", 0.1, None, Words(None, None, "cat", "a cat")),
        ("animal", 0.8, "food", Words("food", None, "cat", "a cat")),
    ],
)
@pytest.mark.parametrize("image", [IMAGE, PLAIN], ids=["labelled tools", "as shipped"])
def test_what_is_said_of_a_region_in_short(
    image: ImageRoles, best: str, probability: float, label: str | None, expected: Words
) -> None:
    assert answer(region(best, probability), label=label, image=image)[1].words == [expected]


def test_without_labels_the_models_own_word_is_said() -> None:
    bare = read_roles(
        '<View><Image name="image" value="$image"/><Brush name="mask" toName="image"/>'
        '<TextArea name="caption" toName="image" perRegion="true"/></View>'
    ).images["image"]
    found = region().model_copy(update={"labels": ()})
    assert answer(found, image=bare)[1].words == [Words(None, None, "cat", "a cat")]
