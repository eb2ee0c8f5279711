"""What Label Studio asks and what it gets, over HTTP, with a real Redis and a real worker."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from label_studio_sdk.converter import brush
from PIL import Image

from model import PerceiveAnything, Prompt, Sampling, Task
from tests.conftest import PICTURES
from tests.http.stack import CONFIG, PictureHost, Stack, box, data_url, point
from tests.waiting import wait_until

NAMES = ("coffee.jpg", "chelsea.jpg", "astronaut.jpg", "rocket.jpg")


def mask_of(item: dict[str, Any]) -> np.ndarray:
    pixels = brush.decode_rle(item["value"]["rle"])
    return pixels.reshape(item["original_height"], item["original_width"], 4)[:, :, 3] > 127


@pytest.fixture(scope="session")
def pam(small_checkpoint: Path) -> PerceiveAnything:
    """The same model in this process: what the answers must be."""
    return PerceiveAnything.from_pretrained(small_checkpoint, device="cpu")


def test_health_setup_versions(stack: Stack) -> None:
    for page in ("/", "/health"):
        health = stack.get(page)
        assert health.status_code == 200 and health.json()["status"] == "UP"
        assert health.json()["model_class"] == "Pallas"
        assert health.json()["workers"] == {"loading": 0, "ready": 1}
    version = stack.wait_for_worker().model_version
    setup = stack.post(
        "/setup", json={"project": "1.1700000000", "schema": CONFIG, "hostname": "x", "access_token": "y"}
    )
    assert setup.json() == {"model_version": version}
    assert stack.get("/versions").json() == {"versions": [version]}


def test_a_click_comes_back_as_mask_class_and_caption(stack: Stack, host: PictureHost, pam: PerceiveAnything) -> None:
    answer = stack.predict(f"{host.url}/coffee.jpg", [point(50, 50), point(10, 10, positive=False)])
    assert answer.status_code == 200, answer.text
    (prediction,) = answer.json()["results"]
    items = prediction["result"]
    geometry, *texts = items
    # geometry first, one id, texts as lists: anything else blanks the editor or shows nothing
    assert geometry["type"] == "brushlabels" and geometry["value"]["format"] == "rle"
    assert {item["id"] for item in items} == {geometry["id"]}
    assert geometry["value"]["brushlabels"] == ["food"]
    caption = next(item for item in texts if item["type"] == "textarea")
    assert isinstance(caption["value"]["text"], list)
    assert all(item["to_name"] == "image" and item["origin"] == "prediction" for item in items)
    assert (geometry["original_width"], geometry["original_height"]) == (600, 400)
    assert prediction["model_version"] == stack.wait_for_worker().model_version
    assert 0 <= prediction["score"] <= 1

    image = Image.open(PICTURES / "coffee.jpg").convert("RGB")
    prompt = Prompt(points=[(300, 200, 1), (60, 40, 0)])
    expected = pam.perceive(image, [prompt], [Task.RECOGNIZE, Task.BRIEF], sampling=Sampling(max_new_tokens=6))
    assert (mask_of(geometry) == expected.regions[0].mask).mean() > 0.999
    assert caption["value"]["text"] == [expected.texts[0][Task.BRIEF].string]
    # random weights never end: what they say is cut, and that is said
    cut = [f"{task}: cut off at its limit of tokens" for task in ("recognize", "brief")]
    assert geometry["meta"]["text"] == [expected.texts[0][Task.RECOGNIZE].string, *cut]
    assert prediction["score"] == geometry["score"]


def test_boxes_make_a_region_each(stack: Stack, host: PictureHost) -> None:
    answer = stack.predict(f"{host.url}/coffee.jpg", [box(5, 5, 30, 40), box(50, 30, 40, 60, label="animal")])
    masks = [item for item in answer.json()["results"][0]["result"] if item["type"] == "brushlabels"]
    assert [item["value"]["brushlabels"] for item in masks] == [["food"], ["animal"]]
    assert len({item["id"] for item in masks}) == 2


def test_of_several_pictures_the_newest_prompts_one_is_meant(stack: Stack, host: PictureHost) -> None:
    config = """<View><Image name="a" value="$one"/><Image name="b" value="$two"/>
    <BrushLabels name="ma" toName="a"><Label value="food"/></BrushLabels>
    <BrushLabels name="mb" toName="b"><Label value="food"/></BrushLabels>
    <RectangleLabels name="ba" toName="a"><Label value="food"/></RectangleLabels>
    <RectangleLabels name="bb" toName="b"><Label value="food"/></RectangleLabels></View>"""
    context = [
        box(5, 5, 30, 40, from_name="ba", to_name="a"),
        box(50, 30, 40, 60, from_name="bb", to_name="b"),
    ]
    data = {"one": f"{host.url}/coffee.jpg", "two": f"{host.url}/astronaut.jpg"}
    body = {"tasks": [{"id": 1, "data": data}], "label_config": config, "params": {"context": {"result": context}}}
    (item,) = stack.post("/predict", json=body).json()["results"][0]["result"]
    assert (item["from_name"], item["to_name"], item["original_width"]) == ("mb", "b", 512)


def test_without_anything_to_predict_there_is_no_prediction(stack: Stack, host: PictureHost) -> None:
    # an empty list for each task: Label Studio would store an empty prediction and never ask again
    assert stack.predict(f"{host.url}/coffee.jpg", None).json() == {"results": [[]]}
    tasks = [{"id": i, "data": {"image": f"{host.url}/coffee.jpg"}} for i in range(5)]
    many = stack.post("/predict", json={"tasks": tasks, "label_config": CONFIG, "params": {"context": None}})
    assert many.json() == {"results": [[]] * 5}


def test_a_page_that_is_left_gets_an_empty_result(stack: Stack, host: PictureHost) -> None:
    version = stack.wait_for_worker().model_version
    assert stack.predict(f"{host.url}/coffee.jpg", []).json() == {"results": [{"result": [], "model_version": version}]}


def test_a_task_that_is_opened_has_its_picture_encoded(stack: Stack, host: PictureHost) -> None:
    address = f"{host.url}/astronaut.jpg?opened"
    assert stack.predict(address, None).json() == {"results": [[]]}
    wait_until(lambda: any(path.endswith("?opened") for path, _ in host.seen))
    click = stack.predict(address, [point(50, 50)])
    timings = dict(part.split(";dur=") for part in click.headers["Server-Timing"].split(", "))
    assert float(timings["encode"]) == 0.0


def test_a_second_click_does_not_encode_again(stack: Stack, host: PictureHost) -> None:
    stack.predict(f"{host.url}/rocket.jpg", [point(50, 50)])
    again = stack.predict(f"{host.url}/rocket.jpg?other=address", [point(40, 50)])
    timings = dict(part.split(";dur=") for part in again.headers["Server-Timing"].split(", "))
    assert float(timings["encode"]) == 0.0 and float(timings["decode"]) > 0


def test_a_second_click_does_not_fetch_again(stack: Stack, host: PictureHost) -> None:
    for _ in range(3):
        stack.predict(f"{host.url}/rocket.jpg?once", [point(50, 50)])
    assert sum(path.endswith("?once") for path, _ in host.seen) == 1


@pytest.mark.parametrize("source", ["upload", "data", "file", "path"])
def test_pictures_from_everywhere(stack: Stack, source: str) -> None:
    roots = stack.settings.state_dir.parent / "roots"
    address = {
        "upload": "/data/upload/1/coffee.jpg",
        "data": data_url((PICTURES / "coffee.jpg").read_bytes(), "image/jpeg"),
        "file": f"file://{roots}/coffee.jpg",
        "path": f"{roots}/coffee.jpg",
    }[source]
    answer = stack.predict(address, [point(50, 50)])
    assert answer.status_code == 200, answer.text
    assert mask_of(answer.json()["results"][0]["result"][0]).any()


def test_the_token_goes_to_label_studio_alone(stack: Stack, host: PictureHost, tmp_path: Path) -> None:
    from tests.http.stack import run_host

    with run_host(PICTURES) as stranger:
        stack.predict(f"{stranger.url}/coffee.jpg", [point(50, 50)])
        # a redirect of its own to another host must not carry the token along
        stack.predict(f"{host.url}/leave/{stranger.url}/chelsea.jpg", [point(50, 50)])
        assert [path for path, _ in stranger.seen].count("/chelsea.jpg") >= 1
        assert all(token is None for _, token in stranger.seen)
    stack.predict("/data/upload/7/coffee.jpg", [point(50, 50)])  # an address that no worker knows yet
    assert ("/data/upload/7/coffee.jpg", "Token s3cret-key") in host.seen


def test_cloud_storage_goes_through_label_studio_and_the_token_stays_there(stack: Stack, host: PictureHost) -> None:
    from tests.http.stack import run_host

    with run_host(PICTURES) as storage:
        bucket = storage.url.removeprefix("http://")
        answer = stack.predict(f"s3://{bucket}/coffee.jpg", [point(50, 50)])
        assert answer.status_code == 200, answer.text
        assert mask_of(answer.json()["results"][0]["result"][0]).shape == (400, 600)
        assert storage.seen == [("/coffee.jpg", None)]
    asked = [(path, token) for path, token in host.seen if path.startswith("/tasks/1/presign/?fileuri=")]
    assert asked and asked[-1][1] == "Token s3cret-key"


def test_webhooks_and_metrics(stack: Stack, host: PictureHost) -> None:
    stack.predict(f"{host.url}/coffee.jpg", [point(50, 50)])
    assert stack.post("/webhook", json={"action": "ANNOTATION_CREATED", "annotation": {}}).json() == {"status": "ok"}
    stack.post("/webhook", json={"action": "whatever_a_stranger_sends"})
    text = stack.get("/metrics").text
    assert 'pallas_webhooks_total{action="ANNOTATION_CREATED"} ' in text
    assert 'pallas_webhooks_total{action="other"} ' in text and "stranger" not in text
    assert 'pallas_queue_depth{queue="interactive"} 0.0' in text
    assert 'pallas_workers{state="ready"} 1.0' in text
    for stage in ("queue", "fetch", "encode", "decode", "prefill", "generate", "shape", "whole"):
        assert f'pallas_stage_seconds_count{{stage="{stage}"}}' in text
    worker = stack.wait_for_worker().name
    # the worker's own numbers travel with its heartbeats
    wait_until(lambda: f'pallas_worker{{what="embedding_hits",worker="{worker}"}}' in stack.get("/metrics").text)


def test_real_requests_of_label_studio(stack: Stack, host: PictureHost) -> None:
    """Bodies that Label Studio 1.23.2 sent, with the picture's address changed to a host that exists."""
    for name in ("predict_kp1", "predict_kpneg", "predict_box", "setup"):
        record = json.loads((Path(__file__).parent / "recorded" / f"{name}.json").read_text())
        body = record["body"]
        for task in body.get("tasks", ()):
            task["data"]["image"] = f"{host.url}/coffee.jpg"
        answer = stack.post(record["path"].rstrip("?"), json=body)
        assert answer.status_code == 200, (name, answer.text)
        if name != "setup":
            assert answer.json()["results"][0]["result"][0]["type"] == "brushlabels"


def test_eighty_requests_from_eight_threads(stack: Stack, host: PictureHost, pam: PerceiveAnything) -> None:
    """No error, and no request is answered with another's result."""
    images = {name: Image.open(PICTURES / name).convert("RGB") for name in NAMES}
    embeddings = {name: pam.encode(image) for name, image in images.items()}

    def ask(i: int) -> str | None:
        name = NAMES[i % 4]
        image = images[name]
        x, y = 10 + (i * 37) % 80, 10 + (i * 53) % 80
        if i % 3 == 0:
            context, prompt = [point(x, y)], Prompt(points=[(x / 100 * image.width, y / 100 * image.height, 1)])
        else:
            w, h = min(30, 100 - x), min(25, 100 - y)
            context = [box(x, y, w, h)]
            edges = (x / 100 * image.width, y / 100 * image.height)
            prompt = Prompt(box=(*edges, (x + w) / 100 * image.width, (y + h) / 100 * image.height))
        address = f"{host.url}/{name}"
        if i % 5 == 0:
            address = data_url((PICTURES / name).read_bytes(), "image/jpeg")
        answer = stack.predict(address, context)
        if answer.status_code != 200:
            return answer.text
        item = answer.json()["results"][0]["result"][0]
        (region,) = pam.segment(embeddings[name], [prompt])
        same = item["original_width"] == image.width and (mask_of(item) == region.mask).mean() > 0.999
        return None if same else f"request {i} got another's mask"

    with ThreadPoolExecutor(8) as pool:
        failures = [text for text in pool.map(ask, range(80)) if text]
    assert failures == []


@pytest.mark.parametrize("name", ["webhook_created", "webhook_created_prefilled", "webhook_updated", "webhook_deleted"])
def test_real_webhooks_of_label_studio(stack: Stack, name: str) -> None:
    """Bodies that Label Studio 1.23.2 sent when a suggestion was accepted, changed and deleted."""
    record = json.loads((Path(__file__).parent / "recorded" / f"{name}.json").read_text())
    answer = stack.post(record["path"], json=record["body"])
    assert answer.status_code == 200 and answer.json() == {"status": "ok"}
