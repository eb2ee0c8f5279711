"""What an annotator meets beyond one click: corrections, reasons that can be read, reviews."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backend.queueing.connection import connect
from tests.http.stack import CONFIG, SHIPPED, PictureHost, Stack, box, point, run_stack
from tests.http.test_protocol import mask_of


@pytest.fixture(scope="module")
def shown(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack that tells the annotator about errors and suggestions, as it does by default."""
    folder, told = tmp_path_factory.mktemp("shown"), {"PALLAS_SHOW_ERRORS": "true", "PALLAS_SHOW_SUGGESTIONS": "true"}
    with run_stack(folder, small_checkpoint, PALLAS_MAX_NEW_TOKENS="4", **told) as stack:
        yield stack


def items(stack: Stack, picture: str, *context: dict[str, Any], **options: Any) -> list[dict[str, Any]]:
    answer = stack.predict(picture, list(context), **options)
    assert answer.status_code == 200, answer.text
    result: list[dict[str, Any]] = answer.json()["results"][0]["result"]
    return result


def test_a_lone_negative_click_cuts_the_region_it_falls_on(shown: Stack, host: PictureHost) -> None:
    picture = f"{host.url}/coffee.jpg"
    before, *_ = items(shown, picture, point(50, 50))
    mask = mask_of(before)
    rows, columns = mask.nonzero()
    x, y = (columns[len(columns) // 3] + 0.5) / 6, (rows[len(rows) // 3] + 0.5) / 4
    after, *words, message = items(shown, picture, point(x, y, positive=False))
    assert message["from_name"] == "message"
    assert after["id"] == before["id"] and {word["id"] for word in words} <= {before["id"]}
    cut = mask_of(after)
    assert cut.any() and not cut[int(y * 4), int(x * 6)] and (cut != mask).any()


def click(x: float, y: float, name: str, positive: bool = True) -> dict[str, Any]:
    """A click as Label Studio 1.23 sends it of a plain smart tool."""
    spot = {"x": x, "y": y, "width": 1.04, "labels": []}
    return point(x, y, positive, type="keypoint", id=name, value=spot)


def test_a_click_with_the_shipped_config(shown: Stack, host: PictureHost) -> None:
    """No label is chosen at the click; class and caption can be read before the mask is accepted."""
    result = items(shown, f"{host.url}/coffee.jpg", click(50, 50, "a1"), config=SHIPPED)
    kinds = [item["type"] for item in result]
    assert kinds[0] == "brush" and kinds[-2:] == ["textarea", "textarea"]
    *region, message = result
    assert len({item["id"] for item in region}) == 1 and message["id"] not in {item["id"] for item in region}
    (line,) = message["value"]["text"]
    caption = region[-1]["value"]["text"][0]
    assert line.endswith(f" – {caption}") and message["from_name"] == "message" and "original_width" not in message


def test_what_submit_before_the_tick_loses_is_said_and_is_no_work(shown: Stack, host: PictureHost) -> None:
    picture = f"{host.url}/coffee.jpg"
    stray = [click(20, 20, "s1"), click(22, 22, "s2")]
    items(shown, picture, *stray, config=SHIPPED)
    annotation = {"id": 9, "task": 1, "result": stray, "updated_at": "2026-11-23T02:52:42.355671Z"}
    event = {"action": "ANNOTATION_CREATED", "annotation": annotation, "project": {"id": 1}}
    assert shown.post("/webhook", json=event).ok
    assert [one["task"] for one in shown.get("/").json()["submitted_before_the_tick"]] == [1]
    # the clicks are left over, and a message without text: there is nothing to answer
    empty = {"id": "m", "from_name": "message", "to_name": "image", "type": "textarea", "value": {"text": []}}
    task = {
        "id": 1,
        "data": {"image": picture},
        "annotations": [annotation | {"result": [*stray, empty]}],
        "drafts": [],
    }
    body = {"tasks": [task], "project": "1.1700000000", "label_config": SHIPPED, "params": {"context": None}}
    assert shown.post("/predict", json=body).json() == {"results": [[]]}
    message = items(shown, picture, click(60, 60, "s3"), config=SHIPPED)[-1]
    assert "task 1 was submitted before the tick: only 2 clicks" in message["value"]["text"][0]
    assert "submitted" not in items(shown, picture, click(60, 60, "s4"), config=SHIPPED)[-1]["value"]["text"][0]


def test_a_reason_that_the_annotator_can_read_and_that_goes_away(shown: Stack, host: PictureHost) -> None:
    (text,) = items(shown, f"{host.url}/gone.jpg", point(50, 50))
    assert text["from_name"] == "message" and "404" in text["value"]["text"][0]
    good = items(shown, f"{host.url}/coffee.jpg", point(50, 50))
    assert good[0]["type"] == "brushlabels" and good[-1]["from_name"] == "message"
    assert "404" not in good[-1]["value"]["text"][0]


def test_without_a_control_for_notices_the_prompt_carries_the_reason(shown: Stack, host: PictureHost) -> None:
    config = "\n".join(line for line in CONFIG.split("\n") if "notice" not in line)
    region, text = items(shown, f"{host.url}/gone.jpg", point(50, 50), config=config)
    assert region["type"] == "keypointlabels" and text["from_name"] == "caption" and region["id"] == text["id"]


def test_faults_of_the_request_stay_http_errors(shown: Stack, host: PictureHost) -> None:
    assert shown.predict(f"{host.url}/coffee.jpg", [point(50, 50, from_name="gone")]).status_code == 400


def test_reviews_are_counted_from_webhooks(shown: Stack, host: PictureHost) -> None:
    result = items(shown, f"{host.url}/coffee.jpg", point(40, 60))
    event = {"action": "ANNOTATION_CREATED", "annotation": {"id": 1, "result": result}, "project": {"id": 1}}
    assert shown.post("/webhook", json=event).json() == {"status": "ok"}
    text = shown.get("/metrics").text
    assert 'pallas_reviewed{what="masks_kept"} 1.0' in text
    # what somebody else put there does not disturb
    strange = {"action": "ANNOTATION_UPDATED", "annotation": {"result": [{"type": "relation"}, {}, {"id": 5}]}}
    assert shown.post("/webhook", json=strange).status_code == 200


FAULTY = (
    """<View><TextArea name="message" toName="image" pallas="notice"/><Image name="image" value="$image"/></View>"""
)


def test_a_config_that_cannot_work_is_said_where_its_user_looks(shown: Stack, host: PictureHost) -> None:
    picture = f"{host.url}/coffee.jpg"

    def opened() -> dict[str, Any]:
        return shown.predict(picture, None, FAULTY).json()

    # in the first task that is opened, once; at every click; on the page
    (first,) = opened()["results"]
    assert "<BrushLabels" in first["result"][0]["value"]["text"][0] and first["model_version"].endswith("config)")
    assert opened()["error"]["type"] == "ConfigError"
    (text,) = items(shown, picture, click(50, 50, "c1"), config=FAULTY)
    assert text["from_name"] == "message" and "<BrushLabels" in text["value"]["text"][0]
    (error, *_) = shown.get("/").json()["errors"]["last"]
    assert "<BrushLabels" in error["message"]
    assert shown.post("/setup", json={"project": "1.1700000000", "schema": SHIPPED}).ok
    assert shown.get("/").json()["configs"] == []


def test_a_word_that_means_nothing_is_said(shown: Stack) -> None:
    config = SHIPPED.replace('name="caption"', 'name="caption" pallas="breif"')
    assert shown.post("/setup", json={"project": "9.1", "schema": config}).ok
    (note,) = shown.get("/").json()["configs"]
    assert note["project"] == "9" and "did you mean brief?" in note["text"]
    assert shown.post("/setup", json={"project": "9.1", "schema": SHIPPED}).ok


def test_retrieving_for_tasks_in_which_nothing_is_marked(shown: Stack, host: PictureHost) -> None:
    tasks: list[dict[str, Any]] = [{"id": n, "data": {"image": f"{host.url}/coffee.jpg"}} for n in (71, 72)]
    body = {"tasks": tasks, "project": "1.1700000000", "label_config": SHIPPED, "params": {"context": None}}
    results = shown.post("/predict", json=body).json()["results"]
    assert all("nothing is marked in 2 of 2 tasks" in one["result"][0]["value"]["text"][0] for one in results)
    assert {one["model_version"].split(" ", 1)[1] for one in results} == {"(nothing marked)"}
    # whoever marked some of them knows what he does
    tasks[0]["annotations"] = [{"id": 1, "result": [box(5, 5, 30, 40, id="marked")], "updated_at": ""}]
    assert shown.post("/predict", json=body).json()["results"][1] == []


def test_a_typed_text_is_looked_for_once(shown: Stack, host: PictureHost) -> None:
    """Label Studio sends it along with every other text of the whole picture."""
    config = CONFIG.replace("</View>", '<TextArea name="find" toName="image" pallas="find"/></View>')

    def typed(text: str, name: str, id: str) -> dict[str, Any]:
        value = {"text": [text]}
        return {"id": id, "from_name": name, "to_name": "image", "type": "textarea", "origin": "manual", "value": value}

    picture, red = f"{host.url}/coffee.jpg", typed("red mug", "find", "find-1")
    *regions, message = items(shown, picture, red, config=config)
    assert message["from_name"] == "message"
    said = message["value"]["text"][0]
    assert ("nothing found: “red mug”" in said) == (not regions) and said
    assert items(shown, picture, red, typed("fine", "message", "m-1"), config=config) == []
    # what is wrong with a text can be read
    (told,) = items(shown, picture, typed("x" * 2000, "find", "find-2"), config=config)
    assert "at most 200" in told["value"]["text"][0] and told["from_name"] == "message"


def test_predictions_of_one_task_without_marks_say_so_when_it_is_opened(shown: Stack, host: PictureHost) -> None:
    """To retrieve some for one task and to open one are the same request: only what follows tells them apart."""
    picture, client = f"{host.url}/coffee.jpg", connect(shown.settings)
    key = "pallas:bare:1.1700000000:1"

    def asked() -> Any:
        return shown.predict(picture, None, SHIPPED).json()["results"]

    def a_while_passes() -> None:
        assert client.pexpire(key, 60_000)

    client.delete(key)
    assert asked() == [[]]
    assert client.set(key, 1, px=10**9)  # at once
    assert asked() == [[]]
    a_while_passes()
    ((found,),) = [asked()]
    (message,) = found["result"]
    assert "nothing is marked in this task" in message["value"]["text"][0] and message["from_name"] == "message"
    assert found["model_version"].endswith("(nothing marked)")
    # who opened it and clicks needs no such word, and the first click puts its own in its place
    assert asked() == [[]]
    a_while_passes()
    assert items(shown, picture, click(50, 50, "b1"), config=SHIPPED)
    assert asked() == [[]]
