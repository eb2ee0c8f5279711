"""Downloads from real servers on loopback: what is refused before a byte is sent, redirects, rebinding, limits."""

from __future__ import annotations

import gzip
import io
import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from backend.errors import BackendError, BadRequest, PictureForbidden, PictureNotFound, PictureTooLarge
from backend.errors import PictureUnreachable as Unreachable
from backend.fetching import local
from backend.fetching.download import Downloads, Limits
from backend.settings import Settings
from tests.waiting import HANG_S, wait_until

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
Speaker = Callable[[socket.socket, bytes], None]


class Server:
    """A raw server: `speak` gets each connection with its request's head; `heads` keeps what was asked."""

    def __init__(self, speak: Speaker, wrap: ssl.SSLContext | None = None) -> None:
        self._speak, self._wrap = speak, wrap
        self.heads: list[bytes] = []
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            if self._wrap:
                connection = self._wrap.wrap_socket(connection, server_side=True)
            with connection:
                head = b""
                while b"\r\n\r\n" not in head and (more := connection.recv(4096)):
                    head += more
                self.heads.append(head)
                self._speak(connection, head)
        except OSError:
            pass

    def close(self) -> None:
        self._listener.close()


@contextmanager
def serving(speak: Speaker | bytes, wrap: ssl.SSLContext | None = None) -> Iterator[Server]:
    def answer(connection: socket.socket, _: bytes) -> None:
        assert isinstance(speak, bytes)
        connection.sendall(speak)

    server = Server(answer if isinstance(speak, bytes) else speak, wrap)
    try:
        yield server
    finally:
        server.close()


def fetch(url: str, allowed: str = "127.0.0.1", max_bytes: int = 1000, seconds: float = 60, **settings: Any) -> bytes:
    sink = io.BytesIO()
    downloads = Downloads(Settings(allowed_hosts=allowed, **settings))
    downloads.fetch(url, sink, Limits(max_bytes, seconds))
    return sink.getvalue()


def test_what_is_allowed_comes() -> None:
    with serving(OK) as server:
        assert fetch(f"http://127.0.0.1:{server.port}/a.png?x=1") == b"hello"
        assert server.heads[0].startswith(b"GET /a.png?x=1 HTTP/1.1\r\n")
        assert f"Host: 127.0.0.1:{server.port}\r\n".encode() in server.heads[0]


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "127.1", "0x7f000001", "2130706433", "0", "[::1]", "[::ffff:127.0.0.1]"]
)
def test_loopback_by_any_spelling_is_refused_before_a_connection(host: str) -> None:
    with serving(OK) as server:
        with pytest.raises((PictureForbidden, Unreachable, BadRequest)) as caught:
            fetch(f"http://{host}:{server.port}/", "public")
        assert server.connections == 0
        assert "hello" not in str(caught.value)
    if host in ("127.0.0.1", "localhost"):
        assert isinstance(caught.value, PictureForbidden) and "PALLAS_ALLOWED_HOSTS" in str(caught.value)


def test_label_studio_itself_is_always_allowed_and_its_port_alone() -> None:
    with serving(OK) as studio, serving(OK) as other:
        own: dict[str, Any] = {"label_studio_url": f"http://localhost:{studio.port}"}
        assert fetch(f"http://localhost:{studio.port}/data/x.png", "public", **own) == b"hello"
        with pytest.raises(PictureForbidden):
            fetch(f"http://localhost:{other.port}/data/x.png", "public", **own)
        assert other.connections == 0


def test_each_redirect_is_checked() -> None:
    with serving(OK) as inside:
        away = f"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.2:{inside.port}/\r\nContent-Length: 0\r\n\r\n"
        with serving(away.encode()) as outside, pytest.raises(PictureForbidden, match=r"127\.0\.0\.2"):
            fetch(f"http://127.0.0.1:{outside.port}/", "127.0.0.1")
        assert inside.connections == 0


@pytest.mark.parametrize("target", ["file:///etc/passwd", "gopher://127.0.0.1/", "ftp://127.0.0.1/x", "data:,x"])
def test_redirects_to_other_schemes_are_not_followed(target: str) -> None:
    answer = f"HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode()
    with serving(answer) as server, pytest.raises(PictureForbidden, match="not followed"):
        fetch(f"http://127.0.0.1:{server.port}/")


def test_redirects_end() -> None:
    with serving(b"HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n") as server:
        with pytest.raises(Unreachable, match="redirects more than 5"):
            fetch(f"http://127.0.0.1:{server.port}/")
        assert server.connections == 6


def test_a_name_that_resolves_to_another_address_the_next_time_gains_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: the address that was checked is the one that is connected to, and nobody resolves again."""
    answers = [[("1.1.1.1", 80)], [("127.0.0.1", 80)]]
    asked: list[str] = []
    connected: list[Any] = []

    def resolve(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in answers.pop(0)]

    def connect(_: socket.socket, address: Any) -> None:
        connected.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket.socket, "connect", connect)
    with pytest.raises(Unreachable):
        fetch("http://rebind.example/", "public")
    assert (asked, connected) == (["rebind.example"], [("1.1.1.1", 80)])
    with pytest.raises(PictureForbidden):
        fetch("http://rebind.example/", "public")
    assert len(connected) == 1


def test_of_several_addresses_only_the_allowed_ones_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(OK) as server:
        found = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, server.port)) for address in ("10.9.9.9", "127.0.0.1")
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        connect, tried = socket.socket.connect, []

        def record(self: socket.socket, address: Any) -> None:
            tried.append(address[0])
            connect(self, address)

        monkeypatch.setattr(socket.socket, "connect", record)
        assert fetch("http://two.example/") == b"hello"
        assert tried == ["127.0.0.1"]


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(b"HTTP/1.1 500 proxy\r\n\r\n") as proxy, serving(OK) as server:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert fetch(f"http://127.0.0.1:{server.port}/") == b"hello"
        assert proxy.connections == 0


def dripping(piece: bytes, start: bytes = b"") -> Speaker:
    def speak(connection: socket.socket, _: bytes) -> None:
        connection.sendall(start)
        for _i in range(2400):  # two minutes, if nobody hangs up
            connection.sendall(piece)
            time.sleep(0.05)

    return speak


@pytest.mark.parametrize(
    "speak",
    [
        dripping(b"x", b"HTTP/1.1 200 OK\r\n\r\n"),  # a body that drips, without its length
        dripping(b"x", b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n"),
        dripping(b"X-A: b\r\n", b"HTTP/1.1 200 OK\r\n"),  # headers that drip
        dripping(b"H"),
        dripping(b""),  # silence
    ],
)
def test_a_slow_host_is_cut_off(speak: Speaker) -> None:
    begin = time.monotonic()
    with serving(speak) as server, pytest.raises(Unreachable, match=r"within 0\.5 s"):
        fetch(f"http://127.0.0.1:{server.port}/", seconds=0.5)
    assert time.monotonic() - begin < 60


def test_a_slow_resolver_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    def resolve(*_: Any, **__: Any) -> list[Any]:
        over.wait(60)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    begin = time.monotonic()
    with pytest.raises(Unreachable, match=r"within 0\.3 s"):
        fetch("http://slow.example/", seconds=0.3)
    assert time.monotonic() - begin < 30
    over.set()


def test_a_silent_tls_handshake_is_cut_off() -> None:
    with serving(dripping(b"")) as server, pytest.raises(Unreachable, match=r"within 0\.5 s"):
        fetch(f"https://127.0.0.1:{server.port}/", seconds=0.5)


BOMB = gzip.compress(b"\0" * (64 << 20))


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n", PictureTooLarge),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1001, PictureTooLarge),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n" + b"x" * 1001 + b"\r\n0\r\n\r\n",
            PictureTooLarge,
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + BOMB, PictureTooLarge),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\nnot gzip at all", Unreachable),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort", Unreachable),
        (b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\nshort", Unreachable),
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", Unreachable),
        (b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 1000 + b"\r\n", Unreachable),
        (b"I speak no HTTP\r\n\r\n", Unreachable),
        (b"", Unreachable),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", PictureNotFound),
        (b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n", PictureForbidden),
        (b"HTTP/1.1 304 Not Modified\r\n\r\n", Unreachable),
        (b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n", Unreachable),
    ],
)
def test_answers_that_are_not_taken(answer: bytes, error: type[BackendError]) -> None:
    with serving(answer) as server, pytest.raises(error):
        fetch(f"http://127.0.0.1:{server.port}/")


@pytest.mark.parametrize(
    "url", ["http:///x", "http://", "http://a:99999/", "http://[::1/", "http://a b/", "https://:80/"]
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises((BadRequest, Unreachable)):
        fetch(url)


def test_the_token_is_for_files_and_for_nothing_else_at_label_studio() -> None:
    """Neither a task's address nor a redirecting host may make us call Label Studio's API."""
    with serving(OK) as studio:
        own: dict[str, Any] = {"label_studio_url": f"http://127.0.0.1:{studio.port}", "label_studio_api_key": "s3cret"}
        paths = ["/data/upload/1/x.png", "/tasks/1/presign/?fileuri=eA==", "/api/projects", "/data/../api/projects"]
        paths += ["/data/%2e%2e/api/projects", "/data/..%5capi/x", "//data/x", "/"]
        for path in paths:
            fetch(f"http://127.0.0.1:{studio.port}{path}", "public", **own)
        sent = [b"Token s3cret" in head for head in studio.heads]
        assert sent == [True, True] + [False] * 6
        back = f"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:{studio.port}/api/x\r\n\r\n".encode()
        with serving(back) as stranger:
            fetch(f"http://127.0.0.1:{stranger.port}/", "127.0.0.1", **own)
        assert b"s3cret" not in studio.heads[-1] and b"s3cret" not in stranger.heads[0]


def test_tls_is_verified_against_the_name_and_the_address_is_pinned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=studio.example"]
    more = ["-addext", "subjectAltName=DNS:studio.example", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command, *more], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, port, **k: real("127.0.0.1", port, **k))
    with serving(OK, context) as server:
        address = f"https://studio.example:{server.port}/x"
        with pytest.raises(Unreachable, match="SSLCertVerificationError"):
            fetch(address)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        assert fetch(address) == b"hello"
        assert f"Host: studio.example:{server.port}\r\n".encode() in server.heads[-1]
        with pytest.raises(Unreachable, match="SSLCertVerificationError"):
            fetch(f"https://other.example:{server.port}/x")


def test_no_connection_stays_open() -> None:
    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    with serving(OK) as good, serving(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 5000) as bad:
        before = open_files()
        for _ in range(20):
            fetch(f"http://127.0.0.1:{good.port}/")
            with pytest.raises(PictureTooLarge):
                fetch(f"http://127.0.0.1:{bad.port}/")
        wait_until(lambda: open_files() <= before + 2)


def test_local_files_stay_below_the_roots_while_links_move(tmp_path: Path) -> None:
    """A link that is put in place of a folder after the check must not be followed."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "a").mkdir(parents=True)
    outside.mkdir()
    (root / "a" / "x").write_bytes(b"inside")
    (outside / "x").write_bytes(b"secret")
    with pytest.raises(OSError):
        (root / "b").symlink_to(outside)
        local._open_below(root.resolve(), ["b", "x"])
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            (root / "a").rename(root / "kept")
            (root / "a").symlink_to(outside)
            (root / "a").unlink()
            (root / "kept").rename(root / "a")

    thread = threading.Thread(target=swap)
    thread.start()
    got: set[bytes] = set()
    tries, until = 0, time.monotonic() + HANG_S
    # often enough that a link would have been in the way; a busy machine may not let it through every time
    while (tries < 300 or not got) and time.monotonic() < until:
        tries += 1
        sink = io.BytesIO()
        try:
            local.copy(f"{root}/a/x", [root], sink, Limits(100, 1))
            got.add(sink.getvalue())
        except (PictureNotFound, PictureForbidden):
            pass
    stop.set()
    thread.join()
    assert got == {b"inside"}


def test_local_things_that_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "big").write_bytes(b"x" * 101)
    for name, error in {"pipe": PictureNotFound, ".": PictureNotFound, "big": PictureTooLarge}.items():
        with pytest.raises(error):
            local.copy(str(tmp_path / name), [tmp_path], io.BytesIO(), Limits(100, 1))
    with pytest.raises(PictureForbidden):
        local.copy("/dev/zero", [tmp_path], io.BytesIO(), Limits(100, 1))
