"""What happens at the same time: two annotators on one picture, another config, another model while jobs wait."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.checkpoints import write_small
from tests.http.stack import CONFIG, PictureHost, Stack, point, run_stack
from tests.http.test_protocol import mask_of
from tests.waiting import HANG_S


def geometry(answer: requests.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    return dict(answer.json()["results"][0]["result"][0])


def test_two_annotators_on_one_new_picture(stack: Stack, host: PictureHost) -> None:
    """Each gets the answer to their own clicks, with the label that they chose, and the picture is fetched once."""
    address = f"{host.url}/astronaut.jpg?both"
    alone = {
        spot: geometry(stack.predict(f"{host.url}/astronaut.jpg", [point(*spot)])) for spot in ((30, 30), (70, 60))
    }

    def annotate(spot: tuple[int, int], label: str) -> list[dict[str, Any]]:
        return [geometry(stack.predict(address, [point(*spot, label=label)])) for _ in range(10)]

    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(annotate, (30, 30), "food")
        other = pool.submit(annotate, (70, 60), "animal")
        for spot, label, found in (((30, 30), "food", one.result()), ((70, 60), "animal", other.result())):
            for item in found:
                assert item["value"]["brushlabels"] == [label]
                assert (mask_of(item) == mask_of(alone[spot])).all()
        ids = [item["id"] for item in one.result() + other.result()]
        assert len(set(ids)) == len(ids)
    assert [path for path, _ in host.seen].count("/astronaut.jpg?both") == 1


def test_the_config_changes_while_people_click(stack: Stack, host: PictureHost) -> None:
    """Each request is answered by the config that it brings; a prompt that does not fit it is told so."""
    changed = CONFIG.replace('name="mask"', 'name="shape"').replace('value="food"', 'value="meal"')
    picture = f"{host.url}/coffee.jpg"

    def old() -> requests.Response:
        return stack.predict(picture, [point(50, 50)], CONFIG)

    def new() -> requests.Response:
        stack.post("/setup", json={"schema": changed})
        return stack.predict(picture, [point(50, 50, label="meal")], changed)

    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(old if i % 2 else new) for i in range(24)]
        for i, each in enumerate(asked):
            item = geometry(each.result())
            assert (item["from_name"], item["value"]["brushlabels"]) == (
                ("mask", ["food"]) if i % 2 else ("shape", ["meal"])
            )
    # a page that was opened before the change: its prompt names a control that is gone
    gone = stack.predict(picture, [point(50, 50, from_name="point")], CONFIG.replace('name="point"', 'name="spot"'))
    assert gone.status_code == 400 and "reload the page" in gone.json()["error"]["message"]


def test_the_model_changes_while_jobs_wait(
    small_checkpoint: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, host: PictureHost
) -> None:
    """Clicks that wait are answered by whichever worker takes them, and each answer says which model made it."""
    folder = tmp_path_factory.mktemp("other")
    other = write_small(folder).rename(folder / "other")
    with run_stack(tmp_path, small_checkpoint, "--workers", "0", PALLAS_MAX_NEW_TOKENS="4") as stack:
        environment = os.environ | {"PALLAS_STATE_DIR": str(stack.settings.state_dir), "PALLAS_HEARTBEAT_S": "0.5"}
        environment |= {"PALLAS_ALLOWED_HOSTS": "127.0.0.1", "OMP_NUM_THREADS": "1"}

        def start(model: Path) -> subprocess.Popen[bytes]:
            command = [sys.executable, "-m", "backend", "worker", "--model", str(model), "--device", "cpu"]
            with (tmp_path / f"{model.name}.log").open("w") as log:
                return subprocess.Popen(command, env=environment, stderr=log)

        first = start(small_checkpoint)
        second = None
        try:
            before = stack.wait_for_worker().model_version
            with ThreadPoolExecutor(6) as pool:
                asked = [pool.submit(stack.predict, f"{host.url}/coffee.jpg?{i}", [point(50, 50)]) for i in range(6)]
                second = start(other)
                until = time.monotonic() + HANG_S
                while len({worker.model_version for worker in stack.workers() if worker.state == "ready"}) < 2:
                    assert time.monotonic() < until
                    asked.append(pool.submit(stack.predict, f"{host.url}/rocket.jpg", [point(50, 50)]))
                    time.sleep(0.5)
                first.terminate()
                asked += [pool.submit(stack.predict, f"{host.url}/chelsea.jpg?{i}", [point(5, 5)]) for i in range(12)]
                answers = [each.result() for each in asked]
            assert [answer.status_code for answer in answers] == [200] * len(answers)
            versions = {answer.json()["results"][0]["model_version"] for answer in answers}
            after = stack.get("/versions").json()["versions"][0]
            assert after != before and versions == {before, after}
        finally:
            for worker in (first, second):
                if worker is not None:
                    worker.terminate()
                    worker.wait(HANG_S)
