"""Tokens: a legacy one as it is, a personal access token exchanged and renewed; for Label Studio's origin alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import redis
from pydantic import SecretStr

from backend.errors import PictureForbidden, PictureUnreachable
from backend.fetching.pictures import PictureStore
from backend.label_studio.access import LabelStudio
from backend.settings import Settings
from tests.http.stack import run_host

PAT = "head.body.signature"


class _TokenServer(BaseHTTPRequestHandler):
    asked: list[Any]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, body))
        good = body == {"refresh": PAT}
        self.send_response(200 if good else 401)
        self.end_headers()
        self.wfile.write(json.dumps({"access": f"access-{len(self.asked)}"} if good else {}).encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[str, list[Any]]]:
    asked: list[Any] = []
    running = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_TokenServer,), {"asked": asked}))
    Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}", asked
    running.shutdown()


def studio_of(url: str | None, key: str | None) -> LabelStudio:
    secret = SecretStr(key) if key else None
    return LabelStudio(Settings(label_studio_url=url, label_studio_api_key=secret, fetch_timeout_s=2))


def test_a_legacy_token_goes_to_its_own_origin_only() -> None:
    studio = studio_of("http://studio:8080", "abc")
    assert studio.headers_for("http://studio:8080/data/upload/1/x.png") == {"Authorization": "Token abc"}
    for other in (
        "http://studio/x.png",
        "https://studio:8080/x.png",
        "http://studio:8081/x.png",
        "http://studio:8080@evil.example/x.png",
        "http://evil.example/?http://studio:8080",
    ):
        assert studio.headers_for(other) == {}
    assert studio.absolute("/data/upload/1/x.png") == "http://studio:8080/data/upload/1/x.png"


def test_a_personal_access_token_is_exchanged_once_and_renewed(
    server: tuple[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, asked = server
    studio = studio_of(url, PAT)
    assert studio.authorization() == studio.authorization() == "Bearer access-1"
    assert asked == [("/api/token/refresh", {"refresh": PAT})]
    monkeypatch.setattr(studio, "_access_until", 0.0)
    assert studio.authorization() == "Bearer access-2"


def test_refused_and_unreachable(server: tuple[str, list[Any]]) -> None:
    with pytest.raises(PictureForbidden, match="make a new one"):
        studio_of(server[0], "an.old.token").authorization()
    with pytest.raises(PictureUnreachable, match="LABEL_STUDIO_URL"):
        studio_of("http://127.0.0.1:9", PAT).authorization()
    with pytest.raises(PictureForbidden, match="set LABEL_STUDIO_URL"):
        studio_of(None, None).absolute("/data/upload/1/x.png")


@pytest.mark.parametrize("path", ["/labelstudio/data/upload/59/thing.png", "/data/upload/59/thing.png"])
def test_label_studio_below_a_sub_path(path: str) -> None:
    """Uploads are called with the sub-path or without it, and both are the same file, fetched with the token."""
    studio = studio_of("http://studio:8080/labelstudio", "abc")
    assert studio.serves(path) and studio.absolute(path) == "http://studio:8080/labelstudio/data/upload/59/thing.png"
    assert studio.headers_for(studio.absolute(path)) == {"Authorization": "Token abc"}
    assert not studio.serves("/labelstudio/etc/passwd") and not studio.serves("/labelstudiox/data/upload/1/x.png")
    assert not studio_of("http://studio:8080", "abc").serves("/labelstudio/data/upload/59/thing.png")


def test_an_upload_below_a_sub_path_is_fetched(tmp_path: Path, client: redis.Redis) -> None:
    (tmp_path / "labelstudio" / "data" / "upload" / "59").mkdir(parents=True)
    (tmp_path / "labelstudio" / "data" / "upload" / "59" / "cb594200-thing.png").write_bytes(b"a picture")
    with run_host(tmp_path) as host:
        key = SecretStr("s3cret-key")
        settings = Settings(label_studio_url=f"{host.url}/labelstudio", label_studio_api_key=key)
        store = PictureStore(settings, client)
        assert store.fetch("/labelstudio/data/upload/59/cb594200-thing.png") == b"a picture"
        assert host.seen == [("/labelstudio/data/upload/59/cb594200-thing.png", "Token s3cret-key")]
