"""A fleet in motion: workers that are drained and replaced, jobs of another version, rubbish in the queue."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from rq.job import Job
from rq.serializers import JSONSerializer

from backend.job import FUNCTION, VERSION, JobRequest
from backend.queueing import heartbeat, versions
from backend.queueing.connection import connect
from backend.queueing.heartbeat import WorkerStatus
from backend.queueing.queues import make_queue
from model import TokenLimits
from tests.http.stack import PictureHost, Stack, point, run_stack
from tests.http.test_bad_input import refused
from tests.waiting import HANG_S, wait_until


def run(stack: Stack, *command: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PALLAS_STATE_DIR": str(stack.settings.state_dir), "PALLAS_HEARTBEAT_S": "0.5"}
    arguments = [sys.executable, "-m", "backend", *command]
    return subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=HANG_S, check=False)


def ready(stack: Stack, count: int, other_than: set[str]) -> set[str]:
    until = time.monotonic() + HANG_S
    while time.monotonic() < until:
        names = {worker.name for worker in stack.workers() if worker.state == "ready"} - other_than
        if len(names) >= count:
            return names
        time.sleep(0.1)
    raise AssertionError(stack.log.read_text())


def test_a_rolling_restart_without_a_failed_click(small_checkpoint: Path, tmp_path: Path, host: PictureHost) -> None:
    with run_stack(
        tmp_path, small_checkpoint, "--workers", "2", PALLAS_MAX_NEW_TOKENS="4", OMP_NUM_THREADS="1"
    ) as stack:
        before = ready(stack, 2, set())
        codes: list[int] = []
        stop = threading.Event()

        def click(number: int) -> None:
            # all the time, and yet with room for the workers that start
            while not stop.wait(0.25):
                answer = stack.predict(f"{host.url}/coffee.jpg?{number}", [point(50, 10 + len(codes) % 80)])
                codes.append(answer.status_code)

        threads = [threading.Thread(target=click, args=[number]) for number in range(3)]
        for thread in threads:
            thread.start()
        try:
            for count, name in enumerate(sorted(before), start=1):
                done = run(stack, "worker", "--drain", name)
                assert done.returncode == 0, done.stderr
                assert f"worker {name} has ended" in done.stdout
                assert name not in {worker.name for worker in stack.workers()}
                # serve starts a new one
                ready(stack, count, before)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert set(codes) == {200}
        assert "Traceback" not in stack.log.read_text()


def test_draining_whom_there_is_not(stack: Stack) -> None:
    done = run(stack, "worker", "--drain", "nobody")
    assert done.returncode == 1 and stack.wait_for_worker().name in done.stderr


def request(host: PictureHost, version: int) -> dict[str, object]:
    address, limits = f"{host.url}/coffee.jpg", TokenLimits.same(4)
    asked = JobRequest(request_id="r" * 12, picture=address, limits=limits, sent_at=time.time())
    return asked.model_dump(mode="json") | {"version": version}


def reply(job: Job) -> dict[str, Any]:
    """What a job answered, once it has."""
    wait_until(lambda: job.get_status(refresh=True) in ("finished", "failed"))
    result = job.latest_result()
    assert result is not None and isinstance(result.return_value, dict), job.get_status()
    return result.return_value


def test_a_job_of_another_version_waits_for_a_worker_that_knows_it(
    stack: Stack, host: PictureHost, small_checkpoint: Path
) -> None:
    client = connect(stack.settings)
    queue = make_queue("batch", client)
    job = queue.enqueue_call(FUNCTION, args=(request(host, VERSION + 1),), timeout=int(HANG_S))
    wait_until(lambda: job.id in versions.ids(client))
    # nor does the janitor take it for lost
    time.sleep(2)
    assert versions.ids(client) == {job.id} and job.get_status(refresh=True) == "queued"
    assert stack.predict(f"{host.url}/coffee.jpg", [point(50, 50)]).status_code == 200
    # an upgraded worker, as it would be: the same but for the number
    code = f"import backend.job as j; j.VERSION = {VERSION + 1}\nfrom backend.__main__ import main; main()"
    environment = os.environ | {"PALLAS_STATE_DIR": str(stack.settings.state_dir), "PALLAS_HEARTBEAT_S": "0.5"}
    environment |= {"PALLAS_ALLOWED_HOSTS": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, "worker", "--model", str(small_checkpoint), "--device", "cpu"]
    upgraded = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        assert reply(job)["width"] == 600
        # both versions at work: each does its own
        more = [
            queue.enqueue_call(FUNCTION, args=(request(host, VERSION + i % 2),), timeout=int(HANG_S)) for i in range(8)
        ]
        assert all("error" not in reply(each) for each in more)
        assert versions.ids(client) == set()
    finally:
        upgraded.terminate()
        upgraded.wait(HANG_S)


def test_jobs_of_the_version_before_run_or_are_put_back(stack: Stack, host: PictureHost) -> None:
    """Their function has the name that it always had, wherever the module lies now."""
    client = connect(stack.settings)
    queue = make_queue("bulk", client)
    stack.wait_for_worker()
    same, older = (
        queue.enqueue_call("backend.engine.perform", args=(request(host, version),), timeout=int(HANG_S))
        for version in (VERSION, VERSION - 1)
    )
    assert reply(same)["width"] == 600
    wait_until(lambda: older.id in versions.ids(client))
    assert older.get_status(refresh=True) == "queued"
    # what a front puts in now, a worker of the version before puts back as well: it knows the name
    assert FUNCTION == "backend.engine.perform"
    # as when that worker is there again
    worker = WorkerStatus("older", "ready", "m", payload=VERSION - 1)
    assert versions.release(client, [worker]) == 1
    older.delete()


def test_a_front_whose_version_no_worker_knows_says_so_at_once(
    small_checkpoint: Path, tmp_path: Path, host: PictureHost
) -> None:
    with run_stack(tmp_path, small_checkpoint, "--workers", "0") as stack:
        client = connect(stack.settings)
        worker = WorkerStatus("newer", "ready", "m", payload=VERSION + 1)
        heartbeat.Heartbeat(client, 60, 60, lambda: None).publish(worker)
        refused(stack.predict(f"{host.url}/coffee.jpg", [point(50, 50)]), 503, "NoWorker", "another version")


def test_a_sign_that_says_more_than_we_know_is_read(stack: Stack) -> None:
    client = connect(stack.settings)
    client.set("pallas:worker:later", '{"name": "later", "state": "ready", "model": "m", "mood": "good"}', ex=5)
    client.sadd("pallas:workers", "later")
    assert "later" in {worker.name for worker in heartbeat.everybody(client)}
    client.delete("pallas:worker:later")
    assert "later" not in {worker.name for worker in heartbeat.everybody(client)}
    assert not client.sismember("pallas:workers", "later")


RUBBISH = [
    *(b"", b"not json", b"\x80\x05N.", b"[]", b"[1]", b'{"a": 1}', b'["backend.engine.perform", null, 7, {}]'),
    *(
        b'["backend.engine.perform", null, [], {}]',
        b'["backend.engine.perform", null, [{"version": "x"}], {}]',
    ),
    b'["os.system", null, ["true"], {}]',
]


@pytest.mark.parametrize("data", RUBBISH)
def test_rubbish_in_the_queue_does_not_end_the_worker(stack: Stack, host: PictureHost, data: bytes) -> None:
    client = connect(stack.settings)
    before = stack.wait_for_worker().name
    job = Job.create(FUNCTION, connection=client, serializer=JSONSerializer, origin="bulk")
    job.save()
    client.hset(job.key, "data", data)
    client.rpush(make_queue("bulk", client).key, job.id)
    wait_until(lambda: not client.llen(make_queue("bulk", client).key))
    assert stack.predict(f"{host.url}/coffee.jpg", [point(50, 50)]).status_code == 200
    assert job.get_status(refresh=True) == "failed"
    assert [worker.name for worker in stack.workers()] == [before]
    job.delete()  # other tests read all that lies there
