"""A real Label Studio as a process, and its API as far as the tests speak it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from tests.waiting import HANG_S

PROGRAM = Path(__file__).parent.parent.parent / ".venv-label-studio" / "bin" / "label-studio"
EMPTY = PROGRAM.parent.parent / "database" / "label-studio.sqlite3"
"""A database without an account, migrated by setup.sh; missing where that was an older one."""

START_S = 240  # migrations of an empty database on a busy two-core machine
USER, PASSWORD = "annotator@example.test", "Only-for-tests-1"


@dataclass
class LabelStudio:
    """A running Label Studio; every call raises AssertionError with the body when the answer is not a 2xx.

    `token` is the personal one of the account that the tests signed up for, as README has it made.
    """

    url: str
    log: Path
    token: str = ""
    _access: tuple[float, str] = (0.0, "")

    def make_project(self, config: str, title: str, **settings: Any) -> int:
        return self.call("POST", "/api/projects", json={"title": title, "label_config": config, **settings})["id"]

    def upload(self, project: int, picture: Path) -> int:
        """Import one picture as a task; the task's id."""
        with picture.open("rb") as file:
            self.call("POST", f"/api/projects/{project}/import", files={"file": (picture.name, file, "image/png")})
        return max(task["id"] for task in self.tasks(project))

    def add_task(self, project: int, data: dict[str, Any], **more: Any) -> int:
        return self.call("POST", "/api/tasks", json={"project": project, "data": data, **more})["id"]

    def import_tasks(self, project: int, tasks: list[dict[str, Any]]) -> list[int]:
        """Many at once, with their annotations; their ids."""
        page = f"/api/projects/{project}/import?return_task_ids=true"
        found: list[int] = self.call("POST", page, json=tasks)["task_ids"]
        return found

    def connect(self, project: int, backend_url: str, interactive: bool = True) -> int:
        body = {"url": backend_url, "project": project, "is_interactive": interactive, "title": "Pallas"}
        backend = self.call("POST", "/api/ml", json=body)
        assert backend["state"] == "CO", f"Label Studio could not connect the backend: {backend}"
        return backend["id"]

    def tasks(self, project: int) -> list[dict[str, Any]]:
        answer = self.call("GET", "/api/tasks", params={"project": project, "page_size": 500, "fields": "all"})
        return answer["tasks"]

    def annotations(self, task: int) -> list[dict[str, Any]]:
        return self.call("GET", f"/api/tasks/{task}/annotations")

    def annotate(self, task: int, result: list[dict[str, Any]]) -> int:
        return self.call("POST", f"/api/tasks/{task}/annotations", json={"result": result})["id"]

    def predictions(self, task: int) -> list[dict[str, Any]]:
        return self.call("GET", "/api/predictions", params={"task": task})

    def retrieve_predictions(self, project: int, tasks: list[int]) -> dict[str, Any]:
        """The data manager's action "Retrieve predictions" on these tasks; Label Studio waits for the backend."""
        return self.call(
            "POST",
            "/api/dm/actions",
            params={"id": "retrieve_tasks_predictions", "project": project},
            json={"selectedItems": {"all": False, "included": tasks}},
        )

    def call(self, method: str, page: str, **options: Any) -> Any:
        answer = requests.request(method, self.url + page, headers=self.headers(), timeout=150, **options)
        assert answer.ok, f"{method} {page}: {answer.status_code} {answer.text[:2000]}"
        return answer.json() if answer.content else None

    def headers(self) -> dict[str, str]:
        """Those that let a request in; what a personal token is exchanged for lasts five minutes."""
        if time.monotonic() > self._access[0]:
            answer = requests.post(f"{self.url}/api/token/refresh", json={"refresh": self.token}, timeout=HANG_S)
            assert answer.ok, answer.text
            self._access = time.monotonic() + 200, answer.json()["access"]
        return {"Authorization": f"Bearer {self._access[1]}"}


@contextmanager
def run_label_studio(folder: Path, log: Path) -> Iterator[LabelStudio]:
    """Start Label Studio with an empty SQLite database in `folder` on a free port; its whole process group is ended.

    Nobody has an account there yet.
    """
    if EMPTY.exists():
        shutil.copy(EMPTY, folder)
    with log.open("w") as out:
        port = _free_port()
        process = subprocess.Popen(
            [
                *(str(PROGRAM), "start", "--no-browser"),
                *("--internal-host", "127.0.0.1", "--port", str(port), "--data-dir", str(folder)),
            ],
            cwd=folder,  # it looks for an .env file where it is started
            env=_environment(folder, port),
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _wait(process, f"http://127.0.0.1:{port}", log)
            yield LabelStudio(f"http://127.0.0.1:{port}", log)
        finally:
            _end(process)


def _environment(folder: Path, port: int) -> dict[str, str]:
    own = {
        "LABEL_STUDIO_BASE_DATA_DIR": str(folder),
        "DATABASE_NAME": str(folder / "label-studio.sqlite3"),
        "LABEL_STUDIO_HOST": f"http://127.0.0.1:{port}",
        # without these four it waits for hosts on the internet before it starts
        "LATEST_VERSION_CHECK": "False",
        "COLLECT_ANALYTICS": "False",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
        # both are needed for a backend on loopback, as README says
        "ML_BLOCK_LOCAL_IP": "False",
        "SSRF_PROTECTION_ENABLED": "False",
        "OMP_NUM_THREADS": "1",
    }
    foreign = ("LABEL_STUDIO_", "HEARTEX_", "DJANGO_", "PYTHON", "VIRTUAL_ENV", "POSTGRE_", "REDIS_")
    return {k: v for k, v in os.environ.items() if not k.startswith(foreign)} | own


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        assert process.poll() is None, f"Label Studio ended with {process.returncode}:\n{_tail(log)}"
        try:
            if requests.get(f"{url}/health", timeout=5).json() == {"status": "UP"}:
                return
        except (requests.RequestException, ValueError):
            pass
        time.sleep(0.5)
    raise AssertionError(f"Label Studio did not start in {START_S} s:\n{_tail(log)}")


def _end(process: subprocess.Popen[bytes]) -> None:
    for kind in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, kind)
            process.wait(15)
            return
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-3000:]
