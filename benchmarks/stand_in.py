"""A stand-in for Label Studio: projects, tasks and predictions in memory, its REST API as far as we speak it.

It has bad days on purpose (`trouble`), which a real one cannot be asked for, and counts what it is sent. Its answers
are those of Label Studio 1.23.2; the end-to-end tests hold the same code to a real one.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

TOKEN = "legacy-token-of-the-stand-in"
REFRESH = "pat.of.stand-in"
"""A personal access token: looks like a JWT, is exchanged for an access token."""
ACCESS = "access.of.stand-in"
MADE = "2026-11-24T10:00:00.000000Z"


@dataclass
class StandIn:
    """The state; safe to read while it runs.

    Attributes:
        trouble: what happens to API requests: "" nothing, "429", "502", "silence" (the connection is closed), or
            "stored" (a prediction is stored, and the connection closed before the answer).
        views: of task ids by view.
        on_picture: called with a picture's name before it is served.
        predictions: by task, in the order in which they were stored.
        settings: of the project, as they were changed.
    """

    url: str = ""
    label_config: str = ""
    pictures: Path | None = None
    trouble: str = ""
    tasks: dict[int, dict[str, Any]] = field(default_factory=dict)
    views: dict[int, list[int]] = field(default_factory=dict)
    on_picture: Callable[[str], None] = lambda _: None
    predictions: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    stored: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, data: dict[str, Any], *result: dict[str, Any]) -> int:
        """A task, with an annotation if there are items; its id."""
        number = len(self.tasks) + 1
        annotations = [{"id": number, "result": list(result), "updated_at": MADE}] if result else []
        self.tasks[number] = {"id": number, "data": data, "annotations": annotations, "drafts": []}
        return number

    def store(self, prediction: dict[str, Any]) -> None:
        """As Label Studio does with what a backend answers or posts."""
        self.stored += 1
        stored = prediction | {"id": self.stored, "at": time.time()}
        self.predictions.setdefault(prediction["task"], []).append(stored)

    def clear(self) -> None:
        """Empty and well again."""
        with self.lock:
            for kept in (self.tasks, self.views, self.predictions, self.asked, self.settings):
                kept.clear()
            self.trouble = ""

    def counts(self, version: str | None = None) -> Counter[int]:
        """How many predictions each task has, of one version or of all."""
        with self.lock:
            return Counter(
                {
                    task: sum(version in (None, found["model_version"]) for found in mine)
                    for task, mine in self.predictions.items()
                }
            )


def _named(value: Any, included: list[str]) -> Any:
    """Of annotations, drafts and predictions only what is named, as Label Studio does it; a task's data is whole."""
    if isinstance(value, list):
        return [{name: part for name, part in work.items() if name in included} for work in value]
    return value


class _Handler(BaseHTTPRequestHandler):
    state: StandIn
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._handle(None)

    def do_POST(self) -> None:
        self._handle(json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"null"))

    def do_PATCH(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"null")
        kind, _, number = self.path.removeprefix("/api/").rstrip("/").partition("/")
        with self.state.lock:
            self.state.asked[f"PATCH {self.path}"] += 1
            if kind == "projects":
                self.state.settings |= body
            for mine in self.state.predictions.values() if kind == "predictions" else ():
                for found in mine:
                    if found["id"] == int(number):
                        found.update(body)
        self._send(200, {"id": int(number)})

    def do_DELETE(self) -> None:
        self._handle(None)

    def _handle(self, body: Any) -> None:
        parts = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        page = f"{self.command} {parts.path}"
        with self.state.lock:
            self.state.asked[page] += 1
        trouble = self.state.trouble
        if page == "POST /api/token/refresh":
            self._send(*((200, {"access": ACCESS}) if body.get("refresh") == REFRESH else (401, {})))
        elif self.headers.get("Authorization") not in (f"Token {TOKEN}", f"Bearer {ACCESS}"):
            self._send(401, {"detail": "Invalid token."})
        elif parts.path.startswith("/data/") and self.state.pictures is not None:
            self._send_file(self.state.pictures / Path(parts.path).name)
        elif trouble == "silence":
            self.close_connection = True
        elif trouble in ("429", "502"):
            self._send(int(trouble), {"detail": "busy"}, {"Retry-After": "1"} if trouble == "429" else {})
        else:
            self._answer(page, query, body)

    def _answer(self, page: str, query: dict[str, str], body: Any) -> None:
        state = self.state
        if page.startswith("GET /api/projects/"):
            known = page.endswith("/1")
            about = {"id": 1, "title": "stand-in", "created_at": MADE, "label_config": state.label_config}
            about |= {"task_number": len(state.tasks)} | state.settings
            self._send(*((200, about) if known else (404, {"detail": "none"})))
        elif page == "GET /api/current-user/whoami":
            self._send(200, {"email": "stand-in@example.test"})
        elif page == "GET /api/tasks":
            self._send(200, self._tasks(query))
        elif page == "GET /api/predictions":
            with state.lock:
                self._send(200, list(state.predictions.get(int(query["task"]), [])))
        elif page == "POST /api/predictions":
            if body["task"] not in state.tasks:
                self._send(400, {"validation_errors": {"task": ['Invalid pk "1" - object does not exist.']}})
                return
            with state.lock:
                state.store(body)
            if state.trouble == "stored":
                self.close_connection = True
            else:
                self._send(201, {"id": 1})
        elif page.startswith("DELETE /api/predictions/"):
            with state.lock:
                for mine in state.predictions.values():
                    mine[:] = [found for found in mine if found["id"] != int(page.rpartition("/")[2])]
            self._send(204, None)
        else:
            self._send(404, {"detail": "no such page"})

    def _tasks(self, query: dict[str, str]) -> dict[str, Any]:
        state = self.state
        ids = sorted(state.tasks)
        if "view" in query:
            ids = state.views[int(query["view"])]
        for item in json.loads(query.get("query", "{}")).get("filters", {}).get("items", []):
            keep = {"greater": int.__gt__, "equal": int.__eq__}[item["operator"]]
            ids = [number for number in ids if keep(number, item["value"])]
        size, page = int(query.get("page_size", 100)), int(query.get("page", 1))
        included = query["include"].split(",")
        rows = []
        for number in ids[size * (page - 1) : size * page]:
            with state.lock:
                mine = list(state.predictions.get(number, []))
            row = state.tasks[number] | {
                "predictions": mine,
                "predictions_model_versions": ",".join({found["model_version"] for found in mine}),
            }
            rows.append({name: _named(row[name], included) for name in included if name in row})
        return {"tasks": rows, "total": len(ids)}

    def _send(self, code: int, body: Any, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(body).encode()
        self.send_response(code)
        for name, value in {**(headers or {}), "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def _send_file(self, path: Path) -> None:
        self.state.on_picture(path.name)
        if not path.is_file():
            self._send(404, {})
            return
        data = path.read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def run_stand_in(label_config: str, pictures: Path | None = None) -> Iterator[StandIn]:
    """Serve it on loopback; pictures are what /data/… gives."""
    state = StandIn(label_config=label_config, pictures=pictures)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"state": state}))
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield state
    finally:
        server.shutdown()
