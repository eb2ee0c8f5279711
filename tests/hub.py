"""A stand-in for the Hugging Face hub on loopback, for its real client, and a cache like that client's."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

PAM, SAM2 = "Perceive-Anything/PAM-3B", "facebook/sam2.1-hiera-large"
COMMIT = {PAM: "3f1360b" + "0" * 33, SAM2: "5a3" + "1" * 37}
NOWHERE = "http://127.0.0.1:9"
"""Where nothing answers: a server that is blocked."""


@dataclass
class Hub:
    """What it has, and how it misbehaves.

    Attributes:
        url: for HF_ENDPOINT.
        files: by repository, paths in it to files on the disk.
        refuses: by repository, the status and the error code (X-Error-Code) that it answers everything with.
        breaks: paths whose download ends in the middle.
        elsewhere: data come from this address, by "redirect" or by "xet"; None sends them itself.
        asked: method and path of each request.
    """

    url: str = ""
    files: dict[str, dict[str, Path]] = field(default_factory=dict)
    refuses: dict[str, tuple[int, str]] = field(default_factory=dict)
    breaks: set[str] = field(default_factory=set)
    elsewhere: str | None = None
    asked: list[str] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(True)

    def do_HEAD(self) -> None:
        self._answer(False)

    def _answer(self, body: bool) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        hub.asked.append(f"{self.command} {path}")
        parts = path.strip("/").split("/")
        about = parts[2:] if parts[:2] == ["api", "models"] else parts
        repository, rest = "/".join(about[:2]), about[2:]
        if repository in hub.refuses or repository not in hub.files:
            status, code = hub.refuses.get(repository, (401, "RepoNotFound"))
            self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code})
        elif rest[0] in ("revision", "tree", "resolve") and rest[1] not in ("main", COMMIT[repository]):
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif rest[0] == "revision":
            self._send(200, json.dumps({"id": repository, "sha": COMMIT[repository], "siblings": []}).encode())
        elif rest[0] == "tree":
            self._send(200, json.dumps([self._entry(*item) for item in hub.files[repository].items()]).encode())
        elif rest[0] == "xet-read-token":
            there = {"X-Xet-Cas-Url": NOWHERE, "X-Xet-Access-Token": "t", "X-Xet-Token-Expiration": "4000000000"}
            self._send(200, b"{}", there)
        else:
            self._resolve(repository, "/".join(rest[2:]), body)

    def _entry(self, path: str, file: Path) -> dict[str, Any]:
        entry = {"type": "file", "path": path, "size": file.stat().st_size, "oid": _digest(file)}
        if file.suffix in (".safetensors", ".pt"):
            entry["lfs"] = {"oid": _digest(file), "size": file.stat().st_size, "pointerSize": 100}
            if self.hub.elsewhere == "xet":
                entry["xetHash"] = _digest(file)
        return entry

    def _resolve(self, repository: str, path: str, body: bool) -> None:
        hub = self.hub
        file = hub.files[repository].get(path)
        if file is None:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        size = file.stat().st_size
        headers = {"ETag": f'"{_digest(file)}"', "X-Repo-Commit": COMMIT[repository]}
        large = file.suffix in (".safetensors", ".pt")
        if large and hub.elsewhere == "xet":
            route = f"{hub.url}/api/models/{repository}/xet-read-token/{COMMIT[repository]}"
            headers |= {"X-Xet-Hash": _digest(file), "X-Xet-Refresh-Route": route}
        if large and hub.elsewhere is not None:
            there = headers | {"X-Linked-Size": str(size), "X-Linked-ETag": headers["ETag"]}
            self._send(302, b"", there | {"Location": f"{NOWHERE}/{path}"})
        elif not body:
            self._send(200, b"", headers | {"Content-Length": str(size)})
        elif path in hub.breaks:
            self._send(200, file.read_bytes()[: size // 2], headers | {"Content-Length": str(size)})
            self.close_connection = True
        else:
            self._send(200, file.read_bytes(), headers)

    def _send(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(data))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@cache
def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def nested(model: Path, sam2: bool = False) -> dict[str, Path]:
    """The published repository: a folder with the files of a model in it; SAM 2's files among them or not."""
    files = {f"PAM-3B/{file.name}": file for file in sorted(model.iterdir()) if file.is_file()}
    return {path: file for path, file in files.items() if sam2 or not file.name.startswith("sam2")}


def write_cache(home: Path, repository: str, files: dict[str, Path]) -> Path:
    """A cache below HF_HOME as the client lays it out, filled by hand; returns the snapshot."""
    storage = home / "hub" / f"models--{repository.replace('/', '--')}"
    snapshot = storage / "snapshots" / COMMIT[repository]
    for path, file in files.items():
        blob, link = storage / "blobs" / _digest(file), snapshot / path
        blob.parent.mkdir(parents=True, exist_ok=True)
        link.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, blob)
        link.symlink_to(os.path.relpath(blob, link.parent))
    (storage / "refs").mkdir(exist_ok=True)
    (storage / "refs" / "main").write_text(COMMIT[repository])
    return snapshot


@contextmanager
def run_hub(files: dict[str, dict[str, Path]]) -> Iterator[Hub]:
    """Serve these repositories on a free port of loopback."""
    hub = Hub(files=files)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
