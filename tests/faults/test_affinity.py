"""Clicks go to the worker that holds the picture, and never wait for it longer than encoding would take."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from backend.queueing.affinity import ENCODE_STAT, STEP_STAT, Affinity, worth_waiting
from backend.queueing.connection import connect
from backend.queueing.heartbeat import WorkerStatus
from backend.run import serve as serving
from backend.run.embedded_redis import running
from backend.settings import Settings
from backend.system import gpus
from benchmarks.stand_in import StandIn
from tests.http.stack import Stack, point
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis.Redis]:
    settings = Settings(state_dir=tmp_path_factory.mktemp("affinity"))
    with running(settings):
        yield connect(settings)


def worker(name: str, state: str = "ready", step_s: float = 0.1) -> WorkerStatus:
    return WorkerStatus(name, state, "tiny", stats={ENCODE_STAT: 0.2, STEP_STAT: step_s})


def test_the_warm_worker_is_asked_if_it_is_free_or_all_are_busy(client: redis.Redis) -> None:
    affinity = Affinity(client)
    a, b = worker("a"), worker("b")
    assert affinity.choose("p", [a, b]) is None  # nobody holds it
    affinity.free("a", ["p"], 60)
    assert affinity.choose("p", [a, b]) is a
    assert affinity.choose("p", [a]) is None and affinity.choose("p", [b]) is None
    assert affinity.choose("p", [worker("a", "loading"), b, worker("c")]) is None
    affinity.busy("a", client)
    assert affinity.choose("p", [a, b]) is None  # b can begin at once
    affinity.busy("b", client)
    assert affinity.choose("p", [a, b]) is a  # all are busy: the warm one is worth a little waiting
    assert affinity.choose("p", [worker("a", step_s=5.0), b]) is None  # but not as much as that
    assert worth_waiting(2, 0.3, 0.1) and not worth_waiting(2, 0.31, 0.1) and not worth_waiting(32, 0.3, 0.1)
    affinity.free("b", [], 60)
    affinity.free("a", [], 60)
    assert affinity.choose("p", [a, b]) is a
    affinity.free("b", ["p"], 60)
    assert affinity.choose("p", [a, b]) is b  # who held it last


def test_two_workers_encode_a_picture_once(stack: Stack, project: StandIn) -> None:
    """Twelve clicks on two pictures in turn: each is encoded by one worker alone."""
    wait_until(lambda: len([one for one in stack.workers() if one.state == "ready"]) == 2)
    before, jobs = total(stack, "embedding_misses"), total(stack, "jobs")
    for number in range(6):
        for name in ("chelsea.jpg", "rocket.jpg"):
            # a query makes another address of it, that no other test has used
            answer = stack.predict(f"{project.url}/data/upload/1/{name}?affinity", [point(30 + number, 50)])
            assert answer.status_code == 200, answer.text
            time.sleep(0.05)
    wait_until(lambda: total(stack, "jobs") - jobs >= 12)  # with the workers' heartbeats
    # one more look each where another test has had the picture under its usual address
    assert total(stack, "embedding_misses") - before <= 4


def total(stack: Stack, what: str) -> float:
    return sum(worker.stats.get(what, 0) for worker in stack.workers())


def test_a_gpu_for_each_worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    eight = {"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}
    assert len(gpus.visible(eight)) == 8 and gpus.visible({"CUDA_VISIBLE_DEVICES": ""}) == []
    assert gpus.visible({"CUDA_VISIBLE_DEVICES": "-1"}) == []
    assert gpus.visible({"CUDA_VISIBLE_DEVICES": "2, 5,-1,3"}) == ["2", "5"]
    assert gpus.for_worker(9, "auto", eight) == {"CUDA_VISIBLE_DEVICES": "1"}
    assert gpus.for_worker(1, "cuda", {"CUDA_VISIBLE_DEVICES": "GPU-aa,GPU-bb"}) == {"CUDA_VISIBLE_DEVICES": "GPU-bb"}
    assert gpus.for_worker(0, "cpu", eight) == {} and gpus.for_worker(0, "cuda:3", eight) == {}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4")
    monkeypatch.setenv("PALLAS_WORKERS", "auto")
    assert Settings().workers == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert Settings().workers == 1 and Settings(workers=3).workers == 3


def test_each_worker_process_sees_its_own_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`serve --workers auto` on a machine that shows two: each child loads the model on its own."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    settings = Settings(state_dir=tmp_path, workers="auto")
    assert settings.workers == 2
    seen: dict[int, dict[str, str]] = {}
    for number in range(settings.workers):
        process = serving.WorkerProcess(settings, number)

        def started(command: list[str], env: dict[str, str], **_: Any) -> Any:
            seen[number] = env  # noqa: B023
            process._ending.set()  # noqa: B023
            return SimpleNamespace(wait=lambda: 0, terminate=lambda: None, poll=lambda: 0)

        monkeypatch.setattr(subprocess, "Popen", started)
        process._keep()
    assert [seen[number]["CUDA_VISIBLE_DEVICES"] for number in (0, 1)] == ["4", "6"]
    assert {env["PALLAS_WORKERS"] for env in seen.values()} == {"2"}  # each takes its share of the cores
