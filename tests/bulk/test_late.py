"""Batch requests that are not done in time: answered with what is ready, the rest delivered through the API."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backend.label_studio.api import LabelStudioApi
from backend.label_studio.protocol import Prediction
from backend.predict import uploads
from backend.predict.uploads import Uploader
from backend.queueing.connection import connect
from backend.run.embedded_redis import running
from backend.settings import Settings
from benchmarks.stand_in import REFRESH, TOKEN, StandIn
from tests.conftest import PICTURES
from tests.http.stack import CONFIG, PictureHost, Stack, box, run_host, run_stack
from tests.waiting import HANG_S, wait_until

QUICK = {"PALLAS_MAX_NEW_TOKENS": "6"}
PICTURE = "/data/upload/1/coffee.jpg"


def slow(number: int) -> list[dict[str, Any]]:
    """Boxes enough that several tasks of them take a while."""
    return [box(i, number % 40, 20, 20, id=f"{number}-{i}") for i in range(24)]


def body(label_studio: StandIn, config: str = CONFIG) -> dict[str, Any]:
    tasks = list(label_studio.tasks.values())
    return {"tasks": tasks, "project": "1.1795338314", "label_config": config, "params": {"context": None}}


def ours(label_studio: StandIn, key: str = TOKEN) -> dict[str, str]:
    return QUICK | {"LABEL_STUDIO_URL": label_studio.url, "LABEL_STUDIO_API_KEY": key}


@pytest.fixture(scope="module")
def host() -> Iterator[PictureHost]:
    """Where that worker's pictures are: it has no token for Label Studio's own."""
    with run_host(PICTURES) as running:
        yield running


@pytest.fixture(scope="module")
def working(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack that knows no Label Studio and delivers nothing: its worker works for the fronts of these tests."""
    # longer than a picture is held back here, also on a slow machine
    limits = {"PALLAS_FETCH_TIMEOUT_S": "60", "PALLAS_JOB_TIMEOUT_S": "70"}
    with run_stack(tmp_path_factory.mktemp("alone"), small_checkpoint, **limits) as stack:
        stack.wait_for_worker()
        yield stack


@pytest.fixture
def alone(working: Stack) -> Stack:
    """That stack, without what a front of the test before held: it would lapse by itself in a minute."""
    connect(working.settings).delete("pallas:late:courier")
    return working


@contextmanager
def front(stack: Stack, log: Path, environment: dict[str, str]) -> Iterator[Stack]:
    """A front of its own beside a stack, whose worker it asks."""
    own = {"PALLAS_HEARTBEAT_S": "0.5", "PALLAS_PORT": "0", "PALLAS_SHOW_ERRORS": "false"}
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "backend", "front"],
            env=os.environ | dict(stack.environment) | own | environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert "is ready: " in line, log.read_text()
        yield replace(stack, url=line.split("is ready: ")[1].strip(), process=process, log=log)
    finally:
        process.terminate()
        process.wait(HANG_S)


@pytest.mark.parametrize(("key", "first"), [(TOKEN, 0), (REFRESH, 8)], ids=["legacy", "personal"])
def test_what_is_not_ready_in_time_is_delivered_later(
    alone: Stack, host: PictureHost, tmp_path: Path, label_studio: StandIn, key: str, first: int
) -> None:
    host.gate.clear()
    for number in range(8):
        # what was asked before would be known: other boxes, another address
        name = "coffee.jpg" if number < 3 else f"held/rocket.jpg?{first}"
        label_studio.add({"image": f"{host.url}/{name}"}, *slow(first + number)[:6])
    label_studio.add({"image": f"{host.url}/coffee.jpg"})  # nothing to predict
    own = ours(label_studio, key) | {"PALLAS_BATCH_WAIT_S": "1.5"}
    with front(alone, tmp_path / "front.log", own) as stack:
        answer = stack.post("/predict", json=body(label_studio))
        assert answer.status_code == 200
        results = answer.json()["results"]
        assert len(results) == 9 and results[8] == []
        ready = {place + 1 for place, result in enumerate(results) if result}
        late = set(answer.json()["late"])
        assert late == set(range(1, 9)) - ready and late >= {4, 5, 6, 7, 8}
        assert answer.headers["X-Pallas-Late"] == str(len(late))
        # asked again while it is in work: nothing is computed twice, and nothing is stored twice
        once_more = stack.post("/predict", json=body(label_studio))
        host.gate.set()
        assert once_more.status_code == 200, once_more.text + stack.log.read_text()
        again = once_more.json()
        answered = {place + 1 for place, result in enumerate(again["results"]) if result}
        wait_until(lambda: set(label_studio.counts()) >= late - answered)
        wait_until(lambda: connect(stack.settings).hlen("pallas:late:task") == 0)
        counts = label_studio.counts(stack.wait_for_worker().model_version)
        assert set(counts.values()) == {1} and not set(counts) & answered and 9 not in counts
        assert len(label_studio.predictions[max(counts)][0]["result"]) == 6 * 3
        # the id of a request that asked for it, once in each line
        lines = [line for line in stack.log.read_text().splitlines() if "delivered late" in line or "not ready" in line]
        asked = {answer.headers["X-Request-Id"], once_more.headers["X-Request-Id"]}
        assert lines and all(line.count("request=") == 1 and line.split("request=")[1] in asked for line in lines)
        # a line of the worker's for each job: nothing is computed twice, but what was delivered between the requests
        jobs = [line for line in alone.log.read_text().splitlines() if " job " in line]
        assert 8 <= sum(job.split("request=")[-1] in asked for job in jobs) <= 8 + len(late & {1, 2, 3})


def test_a_front_that_is_killed_leaves_its_deliveries_to_the_next(
    alone: Stack, host: PictureHost, tmp_path: Path, label_studio: StandIn
) -> None:
    for number in range(4):
        label_studio.add({"image": f"{host.url}/coffee.jpg"}, *slow(20 + number))
    own = ours(label_studio)
    # the next one is there already, and at work on what is late
    with (
        front(alone, tmp_path / "next.log", own),
        front(alone, tmp_path / "asked.log", own | {"PALLAS_BATCH_WAIT_S": "4"}) as stack,
    ):
        send = "import json, sys, requests; requests.post(sys.argv[1], json=json.load(sys.stdin))"
        command = [sys.executable, "-c", send, f"{stack.url}/predict"]
        client = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert client.stdin is not None
        client.stdin.write(json.dumps(body(label_studio)))
        client.stdin.close()
        wait_until(lambda: connect(stack.settings).hlen("pallas:late:task") == 4)
        stack.process.send_signal(signal.SIGKILL)
        stack.process.wait(HANG_S)
        client.wait(HANG_S)
        wait_until(lambda: len(label_studio.counts()) == 4)
        assert set(label_studio.counts().values()) == {1}


@pytest.mark.parametrize("trouble", ["429", "502", "silence", "stored"])
def test_label_studio_is_away_for_a_while(
    small_checkpoint: Path, tmp_path: Path, label_studio: StandIn, trouble: str
) -> None:

    number = label_studio.add({"image": PICTURE})
    settings = Settings(
        state_dir=tmp_path / "state",
        label_studio_url=label_studio.url,
        label_studio_api_key=TOKEN,
    )
    label_studio.trouble = trouble

    def recover() -> None:
        time.sleep(2.5)
        label_studio.trouble = ""

    with running(settings):
        uploader = Uploader(connect(settings), LabelStudioApi(settings))
        threading.Thread(target=recover, daemon=True).start()
        prediction = Prediction(result=[{"id": "a"}], model_version="v1")
        assert uploader.upload(number, prediction)
        assert not uploader.upload(number, prediction)
        assert label_studio.counts() == {number: 1}
        assert uploader.upload(number, Prediction(result=[{"id": "a"}], model_version="v2"))
        assert label_studio.counts("v2") == {number: 1}
        # a few polite requests, not a storm
        assert sum(label_studio.asked.values()) < 25


def test_label_studio_is_away_longer_than_a_claim_lasts(
    tmp_path: Path, label_studio: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two fronts, one answer: neither the one that waits for Label Studio nor one that is slow to post is overtaken."""
    monkeypatch.setattr(uploads, "_CLAIM_S", 1.0)
    settings = Settings(state_dir=tmp_path / "state", label_studio_url=label_studio.url, label_studio_api_key=TOKEN)
    number = label_studio.add({"image": PICTURE})
    prediction = Prediction(result=[{"id": "a"}], model_version="v1")
    api = LabelStudioApi(settings)
    looked, back = threading.Event(), threading.Event()

    class Slow(LabelStudioApi):
        def post_prediction(self, task: int, prediction: Prediction) -> None:
            looked.set()
            back.wait(HANG_S)
            super().post_prediction(task, prediction)

    stored: list[bool] = []
    with running(settings):
        fronts = [Uploader(connect(settings), one) for one in (Slow(settings), api)]
        threads = [threading.Thread(target=lambda f=f: stored.append(f.upload(number, prediction))) for f in fronts]
        threads[0].start()
        assert looked.wait(HANG_S)
        threads[1].start()
        threads[1].join(2.5)  # longer than the claim would last
        back.set()
        for thread in threads:
            thread.join(HANG_S)
    assert label_studio.counts() == {number: 1} and sorted(stored) == [False, True]


def test_who_lost_its_claim_looks_again_before_it_posts(tmp_path: Path, label_studio: StandIn) -> None:
    """As after an outage of Redis longer than any lease, in which another front has stored it."""
    settings = Settings(state_dir=tmp_path / "state", label_studio_url=label_studio.url, label_studio_api_key=TOKEN)
    number = label_studio.add({"image": PICTURE})
    prediction = Prediction(result=[{"id": "a"}], model_version="v1")
    with running(settings):
        client = connect(settings)

        class Overtaken(LabelStudioApi):
            def has_prediction(self, task: int, model_version: str) -> bool:
                found = super().has_prediction(task, model_version)
                if not found:
                    client.delete(uploads.claim_key(task, model_version))
                    Uploader(client, LabelStudioApi(settings)).upload(task, prediction)
                return found

        assert not Uploader(client, Overtaken(settings)).upload(number, prediction)
    assert label_studio.counts() == {number: 1}


def test_without_a_key_the_answer_says_what_to_do(
    small_checkpoint: Path, tmp_path: Path, label_studio: StandIn
) -> None:
    label_studio.pictures, picture = None, f"file:{Path('demo/pictures/coffee.jpg').resolve()}"
    for number in range(8):
        label_studio.add({"image": picture}, *slow(number))
    own = {"PALLAS_BATCH_WAIT_S": "1.5", "PALLAS_MAX_NEW_TOKENS": "48", "PALLAS_SHOW_ERRORS": "true"}
    own["PALLAS_LOCAL_ROOTS"] = str(Path("demo/pictures").resolve())
    with run_stack(tmp_path, small_checkpoint, **(QUICK | own)) as stack:
        answer = stack.post("/predict", json=body(label_studio)).json()
        late = answer["late"]
        assert late
        version = stack.wait_for_worker().model_version
        for place, result in enumerate(answer["results"]):
            if place + 1 not in late:
                assert result["model_version"] == version
                continue
            (item,) = result["result"]
            assert item["from_name"] == "message" and "LABEL_STUDIO_API_KEY" in item["value"]["text"][0]
            # Label Studio would never ask again for a task that has a prediction of the model's own version
            assert result["model_version"] != version
        assert "without LABEL_STUDIO_API_KEY it cannot be delivered later" in stack.log.read_text()
        # a config that cannot show it gets an empty list
        plain = CONFIG.replace('pallas="notice"', 'pallas="off"')
        for number in range(8, 16):
            label_studio.add({"image": picture}, *slow(number))
        more = body(label_studio, plain) | {"tasks": list(label_studio.tasks.values())[8:]}
        answer = stack.post("/predict", json=more).json()
        assert answer["late"] and all(answer["results"][number - 9] == [] for number in answer["late"])


def test_more_regions_than_one_job_may_have_become_several_jobs(
    alone: Stack, host: PictureHost, tmp_path: Path, label_studio: StandIn
) -> None:
    label_studio.add({"image": f"{host.url}/coffee.jpg"}, *slow(30))
    with front(alone, tmp_path / "front.log", ours(label_studio) | {"PALLAS_MAX_PROMPTS": "10"}) as stack:
        answer = stack.post("/predict", json=body(label_studio))
        assert answer.status_code == 200, answer.text
        (found,) = answer.json()["results"]
        assert len({item["id"] for item in found["result"]}) == 24
        assert "24 regions lack something, more than 10: several jobs" in stack.log.read_text()
