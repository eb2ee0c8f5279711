"""A front as it stands on a network: with a password, JSON logs at DEBUG; secrets are planted and sought."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from backend.queueing.connection import connect
from backend.settings import Settings
from tests.conftest import PICTURES
from tests.http.stack import CONFIG, PictureHost, Stack, box, point, run_host, run_stack
from tests.http.test_bad_input import refused
from tests.http.test_faults import free_port, redis_server
from tests.waiting import HANG_S

AUTH = ("ann", "pw-PLANTED")
SECRETS = ("PLANTED", "sesame")
"""Parts of the API key, the password, the Redis password, signed addresses, and of what a task's address may carry."""


@dataclass
class Guarded:
    stack: Stack
    environment: dict[str, str]

    def predict(self, image: str, context: list[dict[str, Any]] | None, **headers: str) -> requests.Response:
        body = {
            "tasks": [{"id": 1, "data": {"image": image}}],
            "label_config": CONFIG,
            "params": {"login": "l-PLANTED", "password": "p-PLANTED", "context": context and {"result": context}},
        }
        return self.stack.post("/predict", json=body, auth=AUTH, headers=headers)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stack.log.read_text().splitlines() if line.startswith("{")]


@pytest.fixture(scope="module")
def key_host() -> Iterator[PictureHost]:
    with run_host(PICTURES, token="key-PLANTED") as running:
        yield running


@pytest.fixture(scope="module")
def guarded(
    small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory, key_host: PictureHost
) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    port = free_port()
    server = redis_server(port, folder / "redis")
    environment = {
        "REDIS_URL": f"redis://:sesame@127.0.0.1:{port}/0",
        "LABEL_STUDIO_URL": key_host.url,
        "LABEL_STUDIO_API_KEY": "key-PLANTED",
        "PALLAS_USER": AUTH[0],
        "PALLAS_PASSWORD": AUTH[1],
        "PALLAS_LOG_LEVEL": "DEBUG",
        "PALLAS_LOG_FORMAT": "json",
        "PALLAS_MAX_NEW_TOKENS": "4",
        "PALLAS_FETCH_TIMEOUT_S": "2",
        "PALLAS_HOST": "0.0.0.0",
    }
    try:
        with run_stack(folder, small_checkpoint, **environment) as stack:
            stack.url = stack.url.replace("0.0.0.0", "127.0.0.1")
            yield Guarded(stack, environment | {"PALLAS_STATE_DIR": str(folder / "state")})
    finally:
        server.terminate()
        server.wait(HANG_S)


@pytest.mark.parametrize("page", ["/", "/health", "/versions", "/metrics", "/nowhere", "/openapi.json"])
def test_no_page_without_the_password(guarded: Guarded, page: str) -> None:
    for auth in (None, ("ann", "wrong"), ("pallas", AUTH[1])):
        answer = requests.get(guarded.stack.url + page, auth=auth, timeout=HANG_S)
        refused(answer, 401, "Unauthorized", "PALLAS_PASSWORD")
        assert answer.headers["WWW-Authenticate"].startswith("Basic ")
    assert requests.get(guarded.stack.url + page, auth=AUTH, timeout=HANG_S).status_code != 401


@pytest.mark.parametrize("page", ["/predict", "/setup", "/webhook"])
def test_nothing_is_taken_without_the_password(guarded: Guarded, page: str) -> None:
    refused(guarded.stack.post(page, json={"schema": CONFIG, "action": "x"}), 401, "Unauthorized")


def test_who_asks_only_whether_it_lives_needs_none(guarded: Guarded) -> None:
    assert guarded.stack.get("/live").json() == {"status": "UP"}


def test_webhooks_by_token_or_password(guarded: Guarded) -> None:
    from pydantic import SecretStr

    from backend.front.auth import webhook_token

    token = webhook_token(Settings(password=SecretStr(AUTH[1])))
    body = {"action": "PROJECT_UPDATED"}
    with_token = {"Authorization": f"Bearer {token}"}
    assert guarded.stack.post("/webhook", json=body, headers=with_token).status_code == 200
    assert guarded.stack.post("/webhook", json=body, auth=AUTH).status_code == 200
    refused(guarded.stack.post("/webhook", json=body, headers={"Authorization": "Bearer x"}), 401, "Unauthorized")
    refused(guarded.stack.post("/predict", json=body, headers=with_token), 401, "Unauthorized")


def test_pages_in_a_browser_cannot_post(guarded: Guarded) -> None:
    answer = guarded.stack.post("/webhook", json={}, auth=AUTH, headers={"Origin": "http://evil.example"})
    refused(answer, 403, "Forbidden", "browser")


def test_one_id_follows_a_click_through_front_queue_and_worker(guarded: Guarded, key_host: PictureHost) -> None:
    mine = "click-0123456789"
    answer = guarded.predict(f"{key_host.url}/coffee.jpg", [point(50, 50)], **{"X-Request-Id": mine})
    assert answer.status_code == 200 and answer.headers["X-Request-Id"] == mine
    lines = [line for line in guarded.lines() if line.get("request") == mine and line["level"] != "DEBUG"]
    (front,) = [line for line in lines if line["logger"] == "backend.front.app"]
    (worker,) = [line for line in lines if line["logger"] == "backend.worker.engine"]
    assert len(lines) == 2, lines
    assert (front["method"], front["page"], front["status"]) == ("POST", "/predict", 200)
    assert front["seconds"] >= worker["seconds"] > 0
    assert set(worker["stages"]) >= {"queue", "fetch", "encode", "decode"}
    client = connect(guarded.stack.settings)
    descriptions = {client.hget(key, "description") for key in client.scan_iter("rq:job:*")}
    assert f"perceive {mine}".encode() in descriptions


def test_a_failure_is_one_line_too(guarded: Guarded, key_host: PictureHost) -> None:
    mine = "failure-0123456789"
    refused(
        guarded.predict(f"{key_host.url}/none.jpg", [point(50, 50)], **{"X-Request-Id": mine}), 404, "PictureNotFound"
    )
    lines = [line for line in guarded.lines() if line.get("request") == mine and line["level"] != "DEBUG"]
    assert [line["logger"] for line in lines] == ["backend.worker.engine", "backend.front.app"]
    assert all(line["error"]["type"] == "PictureNotFound" for line in lines)


@pytest.mark.parametrize("given", ["x", "a b c d e f g h", "a" * 100, "<script>alert(1)</script>"])
def test_an_id_that_is_no_plain_word_is_not_taken_over(guarded: Guarded, given: str) -> None:
    answer = requests.get(guarded.stack.url + "/live", headers={"X-Request-Id": given}, timeout=HANG_S)
    assert answer.headers["X-Request-Id"] != given and len(answer.headers["X-Request-Id"]) == 32


def test_a_person_sees_a_page_and_a_program_json(guarded: Guarded) -> None:
    guarded.predict("ftp://x.example/<b>", [point(50, 50)])
    get = {"url": guarded.stack.url + "/", "auth": AUTH, "timeout": 20}
    for accept in ("*/*", "application/json", ""):
        shown = requests.get(**get, headers={"Accept": accept}).json()  # type: ignore[arg-type]
        assert shown["status"] == "UP" and shown["workers"] == {"loading": 0, "ready": 1}
        assert set(shown["queue"]) == {"interactive", "batch", "bulk", "learn", "tuning"}
        assert shown["worker"][0]["device"] == "cpu"
        assert shown["errors"]["counts"]["BadRequest"] >= 1
        assert shown["errors"]["last"][0]["page"] == "/predict"
    browser = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"}
    page = requests.get(**get, headers=browser)  # type: ignore[arg-type]
    assert page.headers["Content-Type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    for part in (shown["model_version"], "interactive", "ready", "BadRequest", shown["worker"][0]["name"], "/predict"):
        assert part in page.text
    # the reason, and what a stranger put into it escaped
    assert "not supported" in page.text and "x.example/<b>" not in page.text


def test_secrets_are_nowhere_after_a_full_run(guarded: Guarded, key_host: PictureHost) -> None:
    """All that can be asked is asked, well and badly; then logs, pages, Redis' descriptions and `check` are read."""
    stack = guarded.stack
    said: list[str] = []
    signed = "?X-Amz-Signature=sig-PLANTED&token=t-PLANTED#f-PLANTED"
    for address in (
        f"{key_host.url}/coffee.jpg{signed}",
        f"{key_host.url}/none.jpg{signed}",
        f"{key_host.url}/status/500{signed}",
        f"http://u-PLANTED:p-PLANTED@127.0.0.1:9/x.jpg{signed}",
        f"http://10.0.0.1/x.jpg{signed}",
        f"ftp://u-PLANTED:p-PLANTED@host.example/x{signed}",
        f"//u-PLANTED:p-PLANTED@host.example/x{signed}",
        f"http://[bad/x{signed}",
        f"{key_host.url}/leave/http://10.9.9.9/x{signed}",
        "/data/upload/1/coffee.jpg",
        f"/data/upload/9/none.jpg{signed}",
        f"{key_host.url}/trickle{signed}",
    ):
        contexts: list[Any] = [[box(10, 10, 20, 20), point(1, 1, positive=False)], None]
        said += [guarded.predict(address, context).text for context in contexts]
    said += [
        stack.post("/setup", json={"schema": CONFIG, "access_token": "at-PLANTED"}, auth=AUTH).text,
        stack.post("/setup", json={"schema": "<broken", "access_token": "at-PLANTED"}, auth=AUTH).text,
        stack.post("/setup", json={"access_token": "at-PLANTED"}, auth=AUTH).text,
        stack.post("/webhook", json={"action": "ANNOTATION_CREATED", "annotation": {"result": []}}, auth=AUTH).text,
        stack.post("/predict", json={"tasks": "t-PLANTED"}, auth=AUTH).text,
        stack.post("/predict", json={}, auth=("ann", "wrong-PLANTED")).text,
    ]
    for page in ("/", "/metrics", "/versions", "/health", "/openapi.json"):
        said.append(requests.get(stack.url + page, auth=AUTH, headers={"Accept": "text/html"}, timeout=HANG_S).text)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PALLAS_")} | guarded.environment
    for command in (["check"], ["review"], ["worker", "--device", "cuda:99"]):
        done = subprocess.run(
            [sys.executable, "-m", "backend", *command], env=environment, capture_output=True, text=True, check=False
        )
        said.append(done.stdout + done.stderr)
    client = connect(stack.settings)
    said += [str(client.hget(key, "description")) for key in client.scan_iter("rq:job:*")]
    said += [str(key) for key in client.scan_iter("*")]
    said.append(stack.log.read_text())
    assert len(stack.log.read_text().splitlines()) > 60
    for text in said:
        found = [secret for secret in SECRETS if secret in text]
        assert not found, text[max(0, text.index(found[0]) - 300) :][:600]
