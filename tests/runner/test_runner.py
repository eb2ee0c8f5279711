"""The runner under the real web server of label-studio-ml 1.0.9, and against the interface of 2.x."""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import requests

from backend.queueing.connection import connect
from backend.queueing.queues import JOBS
from backend.run.embedded_redis import running
from backend.settings import Settings
from tests.http.stack import CONFIG, Stack, box, point, run_host, run_stack
from tests.waiting import HANG_S

ROOT = Path(__file__).parent.parent.parent
PACKAGE = ROOT / ".label-studio-ml"
RUN = "import sys; from label_studio_ml.server import main; sys.exit(main())"


@pytest.fixture(scope="module")
def stack(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with run_stack(tmp_path_factory.mktemp("runner"), small_checkpoint, PALLAS_MAX_NEW_TOKENS="4") as running:
        yield running


@pytest.fixture(scope="module")
def picture() -> Iterator[str]:
    with run_host(ROOT / "demo" / "pictures") as host:
        yield f"{host.url}/coffee.jpg"


@contextmanager
def served(folder: Path, stack: Stack) -> Iterator[str]:
    """`label-studio-ml init` and `start` with a script of one line."""
    assert PACKAGE.is_dir(), f"{PACKAGE.name} is missing: `make test` installs it (requirements-runner.txt)"
    (folder / "pallas.py").write_text("from backend.runner import Pallas\n")
    environment = os.environ | {
        "PYTHONPATH": f"{PACKAGE}:{ROOT}",
        # its `start` calls whatever `python` is
        "PALLAS_SHOW_SUGGESTIONS": "false",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PALLAS_STATE_DIR": str(stack.settings.state_dir),
        "PALLAS_MAX_NEW_TOKENS": "4",
    }
    command = [sys.executable, "-c", RUN]
    subprocess.run([*command, "init", "mine", "--script", "pallas.py:Pallas"], cwd=folder, env=environment, check=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, "start", "mine", "--port", str(port), "--host", "127.0.0.1"],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        until = time.monotonic() + HANG_S
        while True:
            try:
                assert requests.get(f"{url}/health", timeout=HANG_S).json()["status"] == "UP"
                break
            except requests.ConnectionError:
                assert process.poll() is None and time.monotonic() < until, (folder / "log").read_text()
                time.sleep(0.2)
        yield url
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(HANG_S)


def request_body(picture: str, context: dict[str, Any] | None, *result: dict[str, Any]) -> dict[str, Any]:
    annotations = [{"id": 1, "result": list(result), "updated_at": "2026-11-23T10:00:00Z"}] if result else []
    task = {"id": 1, "data": {"image": picture}, "annotations": annotations, "drafts": [], "predictions": []}
    params = {"login": None, "password": None, "context": context}
    return {"tasks": [task], "project": "1.1700000000", "label_config": CONFIG, "params": params}


def test_under_the_real_server_of_the_package(stack: Stack, picture: str, tmp_path: Path) -> None:
    with served(tmp_path, stack) as url:
        setup = {"project": "1.1700000000", "schema": CONFIG, "hostname": "http://x", "access_token": "y"}
        assert requests.post(f"{url}/setup", json=setup, timeout=HANG_S).status_code == 200
        click = requests.post(
            f"{url}/predict", json=request_body(picture, {"result": [point(50, 50)]}), timeout=HANG_S
        ).json()
        geometry, *words = click["results"][0]["result"]
        assert geometry["type"] == "brushlabels" and words
        assert click["results"][0]["model_version"] == stack.wait_for_worker().model_version
        # the same answer as from our own front, but for the ids
        ours = stack.predict(picture, [point(50, 50)]).json()["results"][0]["result"]
        assert [i["value"] for i in ours] == [i["value"] for i in click["results"][0]["result"]]
        nothing = requests.post(f"{url}/predict", json=request_body(picture, None), timeout=HANG_S).json()
        assert nothing["results"] == [[]]
        filled = requests.post(
            f"{url}/predict", json=request_body(picture, None, box(5, 5, 40, 40)), timeout=HANG_S
        ).json()
        assert filled["results"][0]["result"][0]["type"] == "brushlabels"
        event = {"action": "ANNOTATION_CREATED", "annotation": {"id": 1, "result": click["results"][0]["result"]}}
        answer = requests.post(f"{url}/webhook", json=event | {"project": {"id": 1}}, timeout=HANG_S)
        assert answer.status_code == 201, answer.text
        until = time.monotonic() + HANG_S
        # the package judges in a process of its own
        while 'pallas_reviewed{what="regions"} 1.0' not in stack.get("/metrics").text:
            assert time.monotonic() < until, (tmp_path / "log").read_text()
            time.sleep(0.5)


FIRST = """
import json, sys
from backend.runner import _service, parse, PredictRequest, Reviews, WebhookRequest
body = json.load(sys.stdin)
before = set(sys.modules)
service, dispatcher = _service()
(found,) = service.predict(parse(PredictRequest, body), "first").predictions
event = {"action": "ANNOTATION_CREATED", "annotation": {"id": 1, "result": found.result}, "project": {"id": 1}}
assert Reviews(dispatcher.redis, service.answers).take(parse(WebhookRequest, event)) == 1
print(json.dumps([len(found.result), sorted(set(sys.modules) - before)]))
"""


def alone(script: str, state: Path, given: str = "") -> str:
    """What a script prints that imports the runner beside the real package."""
    environment = os.environ | {"PYTHONPATH": f"{PACKAGE}:{ROOT}", "PALLAS_STATE_DIR": str(state)}
    environment |= {"PALLAS_HEARTBEAT_S": "0.2", "PALLAS_MAX_NEW_TOKENS": "4"}
    command = [sys.executable, "-c", script]
    done = subprocess.run(
        command, env=environment, input=given, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_first_request_imports_nothing(stack: Stack, picture: str) -> None:
    stack.wait_for_worker()
    body = request_body(picture, {"result": [point(50, 50)]})
    items, imported = json.loads(alone(FIRST, stack.settings.state_dir, json.dumps(body)))
    assert items >= 2
    # the standard library's own codecs and such are no matter
    libraries = {name.split(".")[0] for name in imported} - set(sys.stdlib_module_names)
    assert not libraries


SWEEP = """
import time
from backend.runner import _service
from backend.queueing.queues import JOBS
_, dispatcher = _service()
until = time.monotonic() + 60
while dispatcher.redis.scard(JOBS):
    assert time.monotonic() < until, "nobody looks after what lost workers leave behind"
    time.sleep(0.1)
"""


def test_what_lost_workers_leave_behind_goes(tmp_path: Path) -> None:
    """No front of ours and no worker is there: the runner's own process has a janitor."""
    settings = Settings(state_dir=tmp_path)
    with running(settings):
        connect(settings).sadd(JOBS, *(f"gone-{number}" for number in range(1000)))
        alone(SWEEP, tmp_path)
        assert not connect(settings).exists(JOBS)


def test_a_model_py_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "label_studio_ml").mkdir()
    (tmp_path / "label_studio_ml" / "model.py").write_text("LabelStudioMLBase = object\n")
    (tmp_path / "model.py").write_text("")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    command = [sys.executable, "-c", "import backend.runner"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "give yours another name" in done.stderr


class Base:
    """The parts of label-studio-ml 2.x's LabelStudioMLBase that a model meets."""

    def __init__(self, project_id: str | None = None, label_config: str | None = None) -> None:
        self.project_id = project_id or ""
        self.kept: dict[str, Any] = {"label_config": label_config}
        self.setup()

    def setup(self) -> None: ...

    def set(self, key: str, value: Any) -> None:
        self.kept[key] = value

    @property
    def label_config(self) -> Any:
        return self.kept["label_config"]


def test_the_interface_of_2(stack: Stack, picture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("label_studio_ml.model")
    module.LabelStudioMLBase = Base  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "label_studio_ml", ModuleType("label_studio_ml"))
    monkeypatch.setitem(sys.modules, "label_studio_ml.model", module)
    monkeypatch.delitem(sys.modules, "backend.runner", raising=False)
    monkeypatch.setenv("PALLAS_STATE_DIR", str(stack.settings.state_dir))
    monkeypatch.setenv("PALLAS_MAX_NEW_TOKENS", "4")
    runner = importlib.import_module("backend.runner")
    model = runner.Pallas(project_id="1", label_config=CONFIG)
    assert model.kept["model_version"] == stack.wait_for_worker().model_version
    body = request_body(picture, None)
    # 2.x hands an empty context over where there is none
    assert model.predict(body["tasks"], context={}, login=None, password=None) == [[]]
    (prediction,) = model.predict(body["tasks"], context={"result": [point(50, 50)]})
    assert prediction["result"][0]["type"] == "brushlabels"
    event = {"annotation": {"id": 1, "result": prediction["result"]}, "project": {"id": 1}}
    assert model.fit("ANNOTATION_CREATED", event) == {}
    assert 'pallas_reviewed{what="regions"}' in stack.get("/metrics").text
    monkeypatch.delitem(sys.modules, "backend.runner")
