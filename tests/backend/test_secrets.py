"""Tokens and the password go to whom they are meant for, whatever the environment says of proxies and netrc."""

from __future__ import annotations

import base64
import io
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backend.errors import PictureUnreachable
from backend.fetching.download import Downloads, Limits
from backend.label_studio.access import LabelStudio
from backend.label_studio.api import LabelStudioApi
from backend.run import check, health
from backend.settings import Settings
from tests.backend.test_download import Server, serving

PAT = "head.body.signature"
USER = base64.b64encode(b"pallas:pass-word").decode()


def speak(connection: socket.socket, head: bytes) -> None:
    body = b'{"access": "short", "email": "x"}'
    connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))


@pytest.fixture
def stranger(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """What HTTP_PROXY and its like name; netrc knows somebody else for the hosts that are asked."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login other password one\ndefault login other password one\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with serving(speak) as proxy:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            for spelling in (name, name.lower()):
                monkeypatch.setenv(spelling, f"http://127.0.0.1:{proxy.port}")
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.setenv(name, "elsewhere.example")
        yield proxy


def fetch(settings: Settings) -> None:
    Downloads(settings).fetch(f"{settings.label_studio_url}/data/upload/1/x.png", io.BytesIO(), Limits(1000, 5))


ASK: dict[str, Callable[[Settings], object]] = {
    "api": lambda settings: LabelStudioApi(settings, patience_s=0).call("GET", "/api/projects/1"),
    "token": lambda settings: LabelStudio(settings).authorization(),
    "check": check.check_label_studio,
    "upload": fetch,
}


@pytest.mark.parametrize("kind", ASK)
@pytest.mark.parametrize(("key", "shown"), [("legacy", b"Token legacy"), (PAT, b"Bearer short")])
def test_label_studios_token(stranger: Server, kind: str, key: str, shown: bytes) -> None:
    with serving(speak) as studio:
        ASK[kind](Settings(label_studio_url=f"http://127.0.0.1:{studio.port}", label_studio_api_key=key))
        asked = [head for head in studio.heads if b"/api/token/refresh" not in head]
        assert all(b"Authorization: " + shown + b"\r\n" in head for head in asked)
        assert studio.heads or (kind, key) == ("token", "legacy")
        assert not any(b"Basic" in head for head in studio.heads)
    assert stranger.connections == 0


def test_the_fronts_password(stranger: Server) -> None:
    with serving(speak) as front:
        assert health.front(Settings(port=front.port, password="pass-word")) == ""
        assert f"Authorization: Basic {USER}\r\n".encode() in front.heads[0]
    assert stranger.connections == 0


@pytest.mark.parametrize("kind", [kind for kind in ASK if kind != "token"])
def test_a_proxy_for_label_studio_is_used_where_the_settings_name_one(stranger: Server, kind: str) -> None:
    with serving(speak) as proxy:
        settings = Settings(
            label_studio_url="http://studio.example:8080",
            label_studio_api_key="legacy",
            label_studio_proxy=f"http://pallas:pass-word@127.0.0.1:{proxy.port}",
        )
        ASK[kind](settings)
        # `check` asks who it is, and for an upload
        assert len(proxy.heads) == (2 if kind == "check" else 1)
        assert all(head.startswith(b"GET http://studio.example:8080/") for head in proxy.heads)
        assert all(b"proxy-authorization: basic " + USER.encode().lower() in head.lower() for head in proxy.heads)
        assert all(b"Authorization: Token legacy\r\n" in head for head in proxy.heads)
    assert stranger.connections == 0


def test_pictures_of_others_do_not_go_through_label_studios_proxy() -> None:
    with serving(speak) as proxy, serving(speak) as host:
        settings = Settings(
            label_studio_url="http://studio.example:8080",
            label_studio_proxy=f"http://127.0.0.1:{proxy.port}",
            allowed_hosts="127.0.0.1",
        )
        Downloads(settings).fetch(f"http://127.0.0.1:{host.port}/x.png", io.BytesIO(), Limits(1000, 5))
        assert proxy.connections == 0 and host.connections == 1


def test_a_proxy_that_trickles_is_cut_off() -> None:
    def trickle(connection: socket.socket, _: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while True:
            connection.sendall(b"x")
            time.sleep(0.02)

    with serving(trickle) as proxy, pytest.raises(PictureUnreachable, match="did not send"):
        settings = Settings(
            label_studio_url="http://studio.example:8080", label_studio_proxy=f"http://127.0.0.1:{proxy.port}"
        )
        Downloads(settings).fetch("http://studio.example:8080/data/x", io.BytesIO(), Limits(1000000, 0.5))


def test_an_address_that_is_no_proxy() -> None:
    assert Settings(label_studio_proxy=" ").label_studio_proxy is None
    with pytest.raises(ValueError, match="host:port"):
        Settings(label_studio_proxy="socks://x")
