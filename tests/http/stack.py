"""The whole stack as its users run it: `python -m backend serve` as a process, with a real Redis and a real worker."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import requests

from backend.queueing import heartbeat
from backend.queueing.connection import connect
from backend.run.child import serving
from backend.settings import Settings
from tests.waiting import HANG_S

CONFIG = (Path(__file__).parent / "labelled_tools.xml").read_text(encoding="utf-8")
"""With labels on the tools: the label that is chosen at the prompt travels with it."""

SHIPPED = (Path(__file__).parent.parent.parent / "label_config.xml").read_text(encoding="utf-8")


@dataclass
class Stack:
    """A running stack; `settings` reach the same Redis, `environment` is what it was started with."""

    url: str
    process: subprocess.Popen[str]
    settings: Settings
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def predict(self, image: str, context: list[dict[str, Any]] | None, config: str = CONFIG) -> requests.Response:
        """POST /predict as Label Studio does; context None is a request without prompts."""
        body = {
            "tasks": [{"id": 1, "data": {"image": image}, "annotations": [], "drafts": [], "predictions": []}],
            "project": "1.1700000000",
            "label_config": config,
            "params": {"login": None, "password": None, "context": None if context is None else {"result": context}},
        }
        # json.dumps, since requests itself refuses NaN, which a hostile or broken client may send
        return self.post("/predict", data=json.dumps(body), headers={"Content-Type": "application/json"})

    def post(self, page: str, **options: Any) -> requests.Response:
        return requests.post(self.url + page, timeout=100, **options)

    def get(self, page: str) -> requests.Response:
        return requests.get(self.url + page, timeout=100)

    def workers(self) -> list[heartbeat.WorkerStatus]:
        return heartbeat.everybody(connect(self.settings))

    def wait_for_worker(self, seconds: float = HANG_S) -> heartbeat.WorkerStatus:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for worker in self.workers():
                if worker.state == "ready":
                    return worker
            time.sleep(0.1)
        raise AssertionError(f"no worker became ready:\n{self.log.read_text()}")


@contextmanager
def run_stack(folder: Path, model: Path | str | None, *arguments: str, **environment: str) -> Iterator[Stack]:
    """Start `python -m backend serve` on a free port, and stop it with SIGTERM; a model of None is the settings'."""
    folder.mkdir(parents=True, exist_ok=True)
    own = {"PALLAS_STATE_DIR": str(folder / "state"), "PALLAS_DEVICE": "cpu", "PALLAS_HEARTBEAT_S": "0.5"}
    # the picture hosts of these tests
    own |= {"PALLAS_ALLOWED_HOSTS": "public,127.0.0.1"}
    # errors as HTTP codes, and answers alone, unless a test is about what the annotator is shown
    own |= {"PALLAS_SHOW_ERRORS": "false", "PALLAS_SHOW_SUGGESTIONS": "false"}
    if isinstance(model, Path):
        # what random weights say means nothing, and does not end by itself
        own["PALLAS_MAX_NEW_TOKENS"] = "4"
    own |= environment
    log = folder / "stack.log"
    named = () if model is None else ("--model", str(model))
    with serving(log, *named, *arguments, environment=own) as child:
        model = own["PALLAS_MODEL"] if model is None else model
        settings = Settings(redis_url=own.get("REDIS_URL"), state_dir=folder / "state", model=str(model))
        yield Stack(child.url, child.process, settings, log, own)


_SLOW = """
import os, sys, time
from backend.worker.video_job import VideoJob
step = VideoJob.run
seconds, hold, after = float(sys.argv.pop(1)), sys.argv.pop(1), int(sys.argv.pop(1))
done = {}
def slowly(job):
    time.sleep(seconds)
    if done.get(job, 0) >= after and os.path.exists(hold):
        time.sleep(0.05)
        return True
    done[job] = done.get(job, 0) + 1
    return step(job)
VideoJob.run = slowly
from backend.__main__ import main
sys.exit(main())
"""


@contextmanager
def slow_worker(
    stack: Stack, step_s: float = 0, hold: Path | None = None, after: int = 0
) -> Iterator[subprocess.Popen[bytes]]:
    """A worker for a stack without any, ready; each frame of a video takes it so many seconds, or more.

    With a file `hold` a video stands still after so many frames, as long as the file is there; clicks are answered.
    """
    own = [str(step_s), str(hold or ""), str(after)]
    command = [sys.executable, "-c", _SLOW, *own, "worker", "--model", stack.settings.model]
    with stack.log.open("a") as log:
        process = subprocess.Popen(command, env=os.environ | dict(stack.environment), stderr=log)
    try:
        stack.wait_for_worker()
        yield process
    finally:
        process.kill()
        process.wait()


def point(x: float, y: float, positive: bool | None = True, label: str = "food", **changes: Any) -> dict[str, Any]:
    """A smart keypoint as Label Studio 1.23 sends it; x and y are percentages."""
    region = {
        **{"original_width": 600, "original_height": 400, "image_rotation": 0, "id": f"p{x}-{y}", "origin": "manual"},
        **{"from_name": "point", "to_name": "image", "type": "keypointlabels"},
        "value": {"x": x, "y": y, "width": 0.83, "labels": [label], "keypointlabels": [label]},
    }
    return region | ({} if positive is None else {"is_positive": positive}) | changes


def box(x: float, y: float, width: float, height: float, label: str = "food", **changes: Any) -> dict[str, Any]:
    """A smart rectangle as Label Studio 1.23 sends it; all in percentages."""
    value = {"x": x, "y": y, "width": width, "height": height, "rotation": 0, "rectanglelabels": [label]}
    return {
        **{"original_width": 600, "original_height": 400, "image_rotation": 0, "id": f"b{x}-{y}", "origin": "manual"},
        **{"from_name": "box", "to_name": "image", "type": "rectanglelabels", "value": value},
    } | changes


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


class _Host(SimpleHTTPRequestHandler):
    """Files of a folder, and pages that misbehave: /status/CODE, /trickle, /endless; /secret wants a token.

    /held/NAME is a file that comes when the gate is open.
    """

    seen: list[tuple[str, str | None]]
    gate: Event
    token: str

    def do_GET(self) -> None:
        self.seen.append((self.path, self.headers.get("Authorization")))
        if self.path.startswith("/status/"):
            self.send_error(int(urlsplit(self.path).path.rsplit("/", 1)[1]))
        elif self.path.startswith("/held/"):
            self.gate.wait(HANG_S)
            self.path = self.path.removeprefix("/held")
            super().do_GET()
        elif self.path == "/trickle":
            self._send_slowly(b"\x89PNG", 0.2)
        elif self.path == "/endless":
            self._send_slowly(b"\0" * (1 << 20), 0.0)
        elif self.path.startswith("/tasks/") and self.headers.get("Authorization") == f"Token {self.token}":
            # as Label Studio presigns: to the storage itself, here a host on loopback named like a bucket
            uri = base64.urlsafe_b64decode(parse_qs(urlsplit(self.path).query)["fileuri"][0]).decode()
            self.send_response(302)
            self.send_header("Location", "http" + uri.removeprefix("s3"))
            self.end_headers()
        elif (
            self.path.startswith(("/data/upload/", "/tasks/"))
            and self.headers.get("Authorization") != f"Token {self.token}"
        ):
            self.send_error(401)
        elif self.path.startswith("/leave/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/leave/"))
            self.end_headers()
        else:
            self.path = self.path.replace("/data/upload/1", "")
            super().do_GET()

    def _send_slowly(self, piece: bytes, pause_s: float) -> None:
        self.send_response(200)
        self.end_headers()
        try:
            for _ in range(300):
                self.wfile.write(piece)
                self.wfile.flush()
                time.sleep(pause_s)
        except OSError:
            pass

    def log_message(self, *_: Any) -> None:
        pass


@dataclass
class PictureHost:
    """A picture host on loopback; `seen` lists (path, Authorization header) of each request.

    A job about /held/NAME runs until `gate` is set: whatever is to happen in its midst does, on any machine.
    """

    url: str
    seen: list[tuple[str, str | None]]
    gate: Event


@contextmanager
def run_host(folder: Path, token: str = "s3cret-key") -> Iterator[PictureHost]:
    seen: list[tuple[str, str | None]] = []
    gate = Event()
    handler = type("Host", (_Host,), {"seen": seen, "gate": gate, "token": token})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder)))
    server.daemon_threads = True
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield PictureHost(f"http://127.0.0.1:{server.server_port}", seen, gate)
    finally:
        gate.set()
        server.shutdown()
