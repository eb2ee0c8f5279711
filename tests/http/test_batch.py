"""Requests without a prompt: opened tasks and selected ones, with what is in them already."""

from __future__ import annotations

import base64
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from label_studio_sdk.converter import brush

from backend.label_studio.geometry import mask_of
from tests.http.stack import CONFIG, PictureHost, Stack, box, run_stack

SCENES = Path(__file__).parents[2] / "demo" / "scenes"


def ask(stack: Stack, tasks: list[dict[str, Any]], config: str = CONFIG) -> list[Any]:
    body = {"tasks": tasks, "project": "1.1700000000", "label_config": config, "params": {"context": None}}
    answer = stack.post("/predict", json=body)
    assert answer.status_code == 200, answer.text
    results: list[Any] = answer.json()["results"]
    assert len(results) == len(tasks)
    return results


def task(number: int, picture: str, *result: dict[str, Any]) -> dict[str, Any]:
    annotations = [{"id": number, "result": list(result), "updated_at": "2026-11-23T10:00:00Z"}] if result else []
    return {"id": number, "data": {"image": picture}, "annotations": annotations, "predictions": []}


def test_boxes_in_selected_tasks_become_masks_with_words(stack: Stack, host: PictureHost) -> None:
    two = task(
        1, f"{host.url}/coffee.jpg", box(5, 5, 30, 40) | {"id": "a"}, box(50, 30, 40, 60, "animal") | {"id": "b"}
    )
    nothing = task(2, f"{host.url}/chelsea.jpg")
    gone = task(3, f"{host.url}/gone.jpg", box(5, 5, 30, 40))
    first, second, third = ask(stack, [two, nothing, gone])
    kinds = [item["type"] for item in first["result"]]
    assert kinds.count("brushlabels") == 2 and kinds[0] == "brushlabels" and kinds.count("textarea") == 2
    assert first["model_version"] == stack.wait_for_worker().model_version and 0 <= first["score"] <= 1
    # a task whose picture is gone costs only itself, and the log says why
    assert second == [] and third == []
    assert "task 3: PictureNotFound" in stack.log.read_text()


def test_a_mask_drawn_by_hand_gets_its_words_and_keeps_its_shape(stack: Stack, host: PictureHost) -> None:
    mask = np.zeros((400, 600), np.uint8)
    mask[100:200, 150:400] = 255
    rle = brush.mask2rle(mask)
    drawn = box(0, 0, 1, 1, id="mine", type="brushlabels", from_name="mask")
    large = 10**30  # more than 64 bits, as another tool may have written it
    drawn["value"] = {"format": "rle", "rle": rle, "brushlabels": ["food"], "number": large}
    (found,) = ask(stack, [task(11, f"{host.url}/coffee.jpg", drawn)])
    geometry, *words = found["result"]
    assert (mask_of("brush", geometry["value"], 600, 400, 10**6) == (mask > 0)).all() and geometry["value"][
        "rle"
    ] == rle
    assert {word["type"] for word in words} == {"choices", "textarea"}
    assert {word["id"] for word in words} == {geometry["id"]} != {"mine"}
    assert geometry["value"]["number"] == large


def test_a_task_asked_twice_at_once_is_answered_once(stack: Stack, host: PictureHost) -> None:
    opened = task(21, f"{host.url}/coffee.jpg", box(5, 5, 30, 40) | {"id": "a"})
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda _: ask(stack, [opened]), range(2)))
    stored = [answer for (answer,) in answers if answer]
    assert len(stored) == 1 and stored[0]["result"]


def test_regions_are_proposed_where_the_config_asks_for_it(tmp_path: Path, host: PictureHost) -> None:
    config = """<View><Image name="image" value="$image" pallas="propose"/>
    <RectangleLabels name="box" toName="image" smart="true"><Label value="thing"/></RectangleLabels>
    <PolygonLabels name="outline" toName="image"><Label value="thing"/></PolygonLabels></View>"""
    # a picture of the kind that the bundled checkpoint knows: it has three things
    scene = "data:image/png;base64," + base64.b64encode((SCENES / "test-11-00022.png").read_bytes()).decode()
    with run_stack(tmp_path, "tiny") as stack:
        (found,) = ask(stack, [task(31, scene)], config)
        masks = [mask_of("polygon", item["value"], 272, 256, 10**6) for item in found["result"]]
        assert masks and len(masks) <= 32
        for i, one in enumerate(masks):
            for other in masks[:i]:
                assert (one & other).sum() / (one | other).sum() <= 0.65
        # where somebody has marked something, only that is answered
        (one,) = ask(stack, [task(32, f"{host.url}/coffee.jpg", box(5, 5, 30, 40))], config)
        assert len(one["result"]) == 1


def test_words_about_the_whole_picture(stack: Stack, host: PictureHost) -> None:
    config = """<View><Image name="image" value="$image"/>
    <TextArea name="description" toName="image" pallas="detailed"/>
    <Choices name="scene" toName="image"><Choice value="indoors"/></Choices></View>"""
    (found,) = ask(stack, [task(41, f"{host.url}/coffee.jpg")], config)
    assert [item["type"] for item in found["result"]] == ["choices", "textarea"]
    assert found["result"][0]["value"] == {"choices": ["indoors"]}
    text = {"id": "t", "from_name": "description", "to_name": "image", "type": "textarea", "value": {"text": ["x"]}}
    assert ask(stack, [task(42, f"{host.url}/coffee.jpg", text)], config) == [[]]
