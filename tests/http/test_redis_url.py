"""Redis with an ACL user and over TLS: the whole stack by its REDIS_URL, as a company's Redis wants it."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import pytest
import redis

from backend.errors import QueueDown
from backend.queueing.connection import connect
from backend.run.embedded_redis import running
from backend.settings import Settings
from tests.http.stack import PictureHost, point, run_stack
from tests.http.test_faults import free_port, redis_server
from tests.waiting import HANG_S

USER, SECRET = "pallas", "pässword/with:odd@signs"


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A real Redis whose ACL user may do what Pallas needs, and whose default user may do nothing."""
    port = free_port()
    server = redis_server(port, tmp_path_factory.mktemp("redis"))
    try:
        admin = redis.Redis(port=port, password="sesame")
        allowed = ["+@all", "-@dangerous", "+info", "+keys", "-@admin"]
        admin.acl_setuser(USER, enabled=True, passwords=[f"+{SECRET}"], keys=["*"], channels=["*"], commands=allowed)
        yield port
    finally:
        server.terminate()
        server.wait(HANG_S)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    more = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command, *more], check=True, capture_output=True)
    return key, certificate


@contextmanager
def tls_in_front_of(port: int, certificate: tuple[Path, Path]) -> Iterator[int]:
    """A TLS port for a Redis without one (the wheel's is built without TLS); gives the port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate[1], certificate[0])
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def serve(raw: socket.socket) -> None:
        with suppress(OSError):
            inside = socket.create_connection(("127.0.0.1", port))
            outside = context.wrap_socket(raw, server_side=True)
            threading.Thread(target=pump, args=(inside, outside), daemon=True).start()
            pump(outside, inside)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=[listener.accept()[0]], daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.close()


def test_the_stack_with_an_acl_user_over_tls(
    port: int, certificate: tuple[Path, Path], small_checkpoint: Path, tmp_path: Path, host: PictureHost
) -> None:
    with tls_in_front_of(port, certificate) as tls:
        options = f"ssl_ca_certs={certificate[1]}&ssl_cert_reqs=required&ssl_check_hostname=true"
        url = f"rediss://{USER}:{quote(SECRET, safe='')}@localhost:{tls}/0?{options}"
        with run_stack(tmp_path, small_checkpoint, REDIS_URL=url, PALLAS_MAX_NEW_TOKENS="4") as stack:
            answer = stack.predict(f"{host.url}/coffee.jpg", [point(50, 50)])
            assert answer.status_code == 200, answer.text
            assert "pallas_redis_up 1.0" in stack.get("/metrics").text
            for word in (SECRET, quote(SECRET, safe="")):
                assert word not in stack.log.read_text()


@pytest.mark.parametrize("secret", ["", "wrong"])
def test_a_wrong_password_is_said_without_telling_it(port: int, secret: str) -> None:
    settings = Settings(redis_url=f"redis://{USER}:{secret}@127.0.0.1:{port}/0")
    with pytest.raises(QueueDown, match="password") as caught, running(settings):
        pass
    assert not secret or secret not in str(caught.value)


def test_a_certificate_that_nobody_vouches_for_is_refused(port: int, certificate: tuple[Path, Path]) -> None:
    with tls_in_front_of(port, certificate) as tls:
        url = f"rediss://{USER}:{quote(SECRET, safe='')}@localhost:{tls}/0"
        with pytest.raises(redis.ConnectionError, match="certificate"):
            connect(Settings(redis_url=url)).ping()
