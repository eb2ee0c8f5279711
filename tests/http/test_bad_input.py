"""Everything a client can get wrong: a JSON error with a type, a message that says what to do, and the right code."""

from __future__ import annotations

import socket
import struct
import zlib
from typing import Any

import pytest
import requests

from tests.conftest import PICTURES
from tests.http.stack import CONFIG, PictureHost, Stack, box, data_url, point
from tests.waiting import HANG_S

IMAGE = '<Image name="image" value="$image"/>'
BRUSH = '<BrushLabels name="mask" toName="image"><Label value="food"/></BrushLabels>'
POINT = '<KeyPointLabels name="point" toName="image" smart="true"><Label value="food"/></KeyPointLabels>'


@pytest.fixture(autouse=True)
def goes_on_working(stack: Stack, host: PictureHost) -> Any:
    """After each misuse the stack still answers, with the worker it had."""
    before = stack.wait_for_worker().name
    yield
    good = stack.predict(f"{host.url}/coffee.jpg", [point(50, 50)])
    assert good.status_code == 200 and good.json()["results"][0]["result"]
    assert [worker.name for worker in stack.workers()] == [before]
    assert "Traceback" not in stack.log.read_text()


def refused(answer: requests.Response, code: int, kind: str, *says: str) -> None:
    assert answer.headers["Content-Type"] == "application/json"
    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (code, kind), answer.text
    assert answer.headers["X-Request-Id"] == error["request_id"]
    for part in says:
        assert part in error["message"], error["message"]
    assert "Traceback" not in answer.text


@pytest.mark.parametrize("page", ["/predict", "/setup", "/webhook"])
@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[]", b"1", b"null", b'"text"'])
def test_broken_json(stack: Stack, page: str, body: bytes) -> None:
    refused(stack.post(page, data=body, headers={"Content-Type": "application/json"}), 400, "BadRequest", "JSON")


@pytest.mark.parametrize(
    ("page", "body", "says"),
    [
        ("/predict", {}, "tasks"),
        ("/predict", {"tasks": 1, "label_config": CONFIG}, "tasks"),
        ("/predict", {"tasks": [{}], "label_config": CONFIG}, "tasks.0.data"),
        ("/predict", {"tasks": []}, "label_config"),
        ("/predict", {"tasks": [], "label_config": 7}, "label_config"),
        ("/predict", {"tasks": [], "label_config": CONFIG, "params": {"context": {"result": 5}}}, "params.context"),
        ("/setup", {}, "schema"),
        ("/webhook", {}, "action"),
    ],
)
def test_missing_and_wrong_fields(stack: Stack, page: str, body: dict[str, Any], says: str) -> None:
    refused(stack.post(page, json=body), 400, "BadRequest", says)


def test_an_interactive_request_is_about_one_task(stack: Stack, host: PictureHost) -> None:
    tasks = [{"data": {"image": f"{host.url}/coffee.jpg"}}] * 2
    body = {"tasks": tasks, "label_config": CONFIG, "params": {"context": {"result": [point(1, 1)]}}}
    refused(stack.post("/predict", json=body), 400, "BadRequest", "one task")


def test_a_task_without_its_picture(stack: Stack) -> None:
    for data in ({}, {"picture": "x"}, {"image": None}, {"image": ""}, {"image": ["x"]}):
        body = {"tasks": [{"data": data}], "label_config": CONFIG, "params": {"context": {"result": [point(1, 1)]}}}
        refused(stack.post("/predict", json=body), 400, "BadRequest", "tasks.0.data.image")


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("", "cannot be read"),
        ("<View>", "cannot be read"),
        ("<View></View>", "<Image"),
        (
            '<View><Text name="t" value="$t"/><Choices name="c" toName="t"><Choice value="a"/></Choices></View>',
            "<Image",
        ),
        (f"<View>{IMAGE}</View>", "<BrushLabels"),
        (f"<View>{IMAGE}{POINT}</View>", "<BrushLabels"),
        (
            f"<View>{IMAGE}{BRUSH.replace('toName=&quot;image', 'toName=&quot;x')}</View>".replace("image", "pic", 1),
            "<BrushLabels",
        ),
        ('<!DOCTYPE x [<!ENTITY a "b">]><View>&a;</View>', "not allowed"),
    ],
)
def test_configs_that_cannot_work(stack: Stack, host: PictureHost, config: str, says: str) -> None:
    # Label Studio shows "400" of a refused config and no reason: it is taken, and the reason is on our page
    assert stack.post("/setup", json={"schema": config, "project": "77.1"}).status_code == 200
    (note,) = [note for note in stack.get("/").json()["configs"] if note["project"] == "77"]
    assert says in note["text"]
    refused(stack.predict(f"{host.url}/coffee.jpg", [point(1, 1)], config), 400, "ConfigError", says)


def test_prompts_of_unknown_controls(stack: Stack, host: PictureHost) -> None:
    picture = f"{host.url}/coffee.jpg"
    refused(stack.predict(picture, [point(1, 1, from_name="gone")]), 400, "ConfigError", "'gone'", "reload")
    refused(stack.predict(picture, [point(1, 1, to_name="elsewhere")]), 400, "ConfigError", "'elsewhere'")


@pytest.mark.parametrize(
    ("region", "kind", "says"),
    [
        (point(100.5, 50), "PromptError", "outside the picture"),
        (point(50, -3), "PromptError", "outside the picture"),
        (point(float("nan"), 50), "BadRequest", "finite"),
        (point(50, float("inf")), "BadRequest", "finite"),
        (point("left", 50), "BadRequest", "number"),  # type: ignore[arg-type]
        (box(10, 10, 0, 10), "PromptError", "empty or inverted"),
        (box(10, 10, 10, -4), "PromptError", "empty or inverted"),
        (box(float("nan"), 10, 10, 10), "BadRequest", "finite"),
        (box(120, 10, 10, 10), "PromptError", "outside the picture"),
        (box(10, 10, 10, 10, value={"x": 1, "y": 2}), "PromptError", "width of the prompt is missing"),
    ],
)
def test_prompts_that_cannot_be_used(
    stack: Stack, host: PictureHost, region: dict[str, Any], kind: str, says: str
) -> None:
    refused(stack.predict(f"{host.url}/coffee.jpg", [region]), 400, kind, says)


def test_too_many_regions(stack: Stack, host: PictureHost) -> None:
    boxes = [box(i, i, 10, 10) for i in range(9)]
    refused(stack.predict(f"{host.url}/coffee.jpg", boxes), 400, "PromptError", "limit is 8")


def png_of(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds a few bytes of pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "code", "kind", "says"),
    [
        (b"", 422, "PictureError", "0 bytes"),
        (b"I am a text, not a picture", 422, "PictureError", "not a picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 422, "PictureError", "not a picture"),
        ((PICTURES / "coffee.jpg").read_bytes()[:3000], 422, "PictureError", "truncated"),
        (png_of(64, 64), 422, "PictureError", "truncated"),
        (png_of(50_000, 50_000), 413, "PictureTooLarge", "too large"),
        (b"\0" * (5 << 20), 413, "PictureTooLarge", "4,194,304 bytes"),
    ],
)
def test_pictures_that_are_none(stack: Stack, data: bytes, code: int, kind: str, says: str) -> None:
    refused(stack.predict(data_url(data), [point(50, 50)]), code, kind, says)


@pytest.mark.parametrize(
    ("address", "code", "kind", "says"),
    [
        ("{host}/nothing.jpg", 404, "PictureNotFound", "404"),
        ("{host}/status/401", 403, "PictureForbidden", "LABEL_STUDIO_API_KEY"),
        ("{host}/status/403", 403, "PictureForbidden", "LABEL_STUDIO_API_KEY"),
        ("{host}/status/500", 502, "PictureUnreachable", "500"),
        ("{host}/trickle", 502, "PictureUnreachable", "within 2 s"),
        ("{host}/endless", 413, "PictureTooLarge", "bytes"),
        ("http://127.0.0.1:9/x.jpg", 502, "PictureUnreachable", "cannot be reached"),
        ("http://no-such-host.invalid/x.jpg", 502, "PictureUnreachable", "cannot be reached"),
        ("http://user:hunter2@127.0.0.1:9/x.jpg?sig=hunter3", 502, "PictureUnreachable", "127.0.0.1:9/x.jpg"),
        ("http://[bad/x.jpg", 400, "BadRequest", "address"),
        ("/etc/passwd", 403, "PictureForbidden", "PALLAS_LOCAL_ROOTS"),
        ("file:///etc/passwd", 403, "PictureForbidden", "PALLAS_LOCAL_ROOTS"),
        ("{roots}/../outside.jpg", 403, "PictureForbidden", "PALLAS_LOCAL_ROOTS"),
        ("{roots}/link.jpg", 403, "PictureForbidden", "PALLAS_LOCAL_ROOTS"),
        ("{roots}/missing.jpg", 404, "PictureNotFound", "no file"),
        ("{roots}", 404, "PictureNotFound", "not a file"),
        ("file:////%5Bbad", 403, "PictureForbidden", "PALLAS_LOCAL_ROOTS"),
        ("ftp://example.org/x.jpg", 400, "BadRequest", "not supported"),
        ("just words", 400, "BadRequest", "not supported"),
        ("data:image/png,abc", 422, "PictureError", "not a picture"),
        ("data:image/png;base64,####", 422, "PictureError", "damaged"),
        ("blob:http://localhost/0000", 400, "BadRequest", "not supported"),
        ("blob:" + "0" * 64, 503, "PictureExpired", "expired"),
    ],
)
def test_pictures_that_cannot_be_fetched(
    stack: Stack, host: PictureHost, address: str, code: int, kind: str, says: str
) -> None:
    roots = stack.settings.state_dir.parent / "roots"
    answer = stack.predict(address.format(host=host.url, roots=roots), [point(50, 50)])
    refused(answer, code, kind, says)
    assert "hunter" not in answer.text and "root:" not in answer.text


def test_a_body_over_the_limit(stack: Stack) -> None:
    refused(stack.predict("data:image/png;base64," + "A" * (9 << 20), [point(1, 1)]), 413, "BodyTooLarge", "too large")


def test_no_http_at_all(stack: Stack) -> None:
    address, port = stack.url.removeprefix("http://").split(":")
    with socket.create_connection((address, int(port)), timeout=HANG_S) as raw:
        raw.sendall(b"POST /predict HTTP/1.1\r\nContent-Length: lots\r\n\r\n")
        # until the server closes: head and body may come in two pieces
        answer = b"".join(iter(lambda: raw.recv(4096), b"")).decode()
    assert answer.startswith("HTTP/1.1 400") and '"type": "BadRequest"' in answer


def test_connections_that_somebody_keeps_open_lock_nobody_out(stack: Stack) -> None:
    address, port = stack.url.removeprefix("http://").split(":")
    kept = [socket.create_connection((address, int(port)), timeout=HANG_S) for _ in range(300)]
    try:
        assert stack.get("/health").json()["status"] == "UP"
    finally:
        for connection in kept:
            connection.close()


def test_unknown_pages_and_methods(stack: Stack) -> None:
    refused(stack.get("/admin"), 404, "NotFound", "/predict")
    refused(stack.get("/predict"), 405, "MethodNotAllowed", "GET")


def test_nothing_useful_in_the_context_is_no_error(stack: Stack, host: PictureHost) -> None:
    """Leftovers that Label Studio adds are understood: an RLE under a prompt's type, a caption."""
    leftovers = [
        point(1, 1, positive=None, value={"format": "rle", "rle": [0, 1], "keypointlabels": ["food"]}),
        {"id": "t", "type": "textarea", "from_name": "caption", "to_name": "image", "value": {"text": ["x"]}},
    ]
    answer = stack.predict(f"{host.url}/coffee.jpg", leftovers)
    assert answer.status_code == 200 and answer.json()["results"][0]["result"] == []
