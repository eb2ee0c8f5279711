"""A Redis that is silent, as after a failover or behind a cable that was pulled: nobody waits for it for ever."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import redis

from backend.front.app import create_app
from backend.queueing import alarm, connection
from backend.queueing.connection import State, connect, state_of
from backend.queueing.dispatcher import Dispatcher
from backend.queueing.heartbeat import Heartbeat, WorkerStatus
from backend.run.embedded_redis import running
from backend.settings import Settings
from backend.worker.embedding_locks import EmbeddingLocks
from backend.worker.worker import ResidentWorker
from tests.waiting import wait_until


@contextmanager
def half_open(path: Path) -> Iterator[tuple[int, threading.Event]]:
    """A port before the Redis of a Unix socket; while the event is set it takes everything, and passes nothing on."""
    silent = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if not silent.is_set():
                    target.sendall(data)

    def accept() -> None:
        with suppress(OSError):
            while True:
                outside = listener.accept()[0]
                inside = socket.socket(socket.AF_UNIX)
                inside.connect(str(path))
                for ends in ((outside, inside), (inside, outside)):
                    threading.Thread(target=pump, args=ends, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield int(listener.getsockname()[1]), silent
    finally:
        listener.close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "BLOCK_S", 0.2)
    monkeypatch.setattr(connection, "PATIENCE_S", 0.5)
    monkeypatch.setattr(connection, "ANSWER_S", 0.5)


def test_who_waits_on_a_half_open_connection_is_told(tmp_path: Path, quick: None) -> None:
    embedded = Settings(state_dir=tmp_path)
    with running(embedded), half_open(tmp_path / "redis.sock") as (port, silent):
        settings = Settings(redis_url=f"redis://127.0.0.1:{port}/0")
        dispatcher = Dispatcher(settings)
        locks = EmbeddingLocks(connect(settings, blocking=True), "v", 60)
        # several pieces of a wait, all answered
        assert dispatcher.results(["nothing"], 0.5) == {} and locks.wait("a", "ticket", 0.5) is None
        assert state_of(settings) is State.UP
        silent.set()
        with pytest.raises(redis.TimeoutError):
            dispatcher.results(["nothing"], 3600)
        assert locks.wait("a", "ticket", 3600) is None
        assert state_of(settings) is State.SILENT
        silent.clear()
        assert dispatcher.results(["nothing"], 0.3) == {}


def test_a_health_check_waits_for_no_silent_redis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Label Studio does for a second, and everybody else's patience is longer."""
    for name in ("BLOCK_S", "PATIENCE_S", "ANSWER_S"):
        monkeypatch.setattr(connection, name, 3600)
    with running(Settings(state_dir=tmp_path)), half_open(tmp_path / "redis.sock") as (port, silent):
        settings = Settings(redis_url=f"redis://127.0.0.1:{port}/0")
        front = create_app(settings, Dispatcher(settings)).test_client()
        assert front.get("/health").status_code == 200
        silent.set()
        for _ in range(2):
            answer = front.get("/health")
            assert answer.status_code == 503 and answer.get_json()["error"]["type"] == "QueueDown"
        assert front.get("/").get_json()["status"] == "DOWN"
        silent.clear()
        assert front.get("/health").status_code == 200


def test_connections_are_kept_alive(tmp_path: Path) -> None:
    for blocking in (False, True):
        far = connect(Settings(redis_url="rediss://:x@redis.example/0"), blocking).connection_pool.connection_kwargs
        assert far["socket_keepalive"] and far["health_check_interval"] and far["socket_timeout"]
        for settings in (Settings(state_dir=tmp_path), Settings(redis_url=f"unix://{tmp_path}/redis.sock")):
            near = connect(settings, blocking).connection_pool.connection_kwargs
            assert near["socket_timeout"] and near["health_check_interval"]


def test_the_watchdog_looks_while_redis_is_away(tmp_path: Path) -> None:
    looks: list[int] = []
    settings = Settings(state_dir=tmp_path)
    with running(settings):
        heart = Heartbeat(connect(settings), 0.02, 5, lambda: looks.append(1))
        heart.start(WorkerStatus("w", "ready", "m"))
    away = len(looks)
    wait_until(lambda: len(looks) > away + 3)
    heart.stop()


class Exited(Exception):
    """In place of the process's end."""


@pytest.fixture
def lonely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A worker whose Redis is away; its end is an exception."""

    def exited(code: int) -> None:
        raise Exited(code)

    monkeypatch.setattr(os, "_exit", exited)
    settings = Settings(state_dir=tmp_path)
    with running(settings):
        client = connect(settings)
        worker = ResidentWorker.on(["bulk"], "w", client)
    worker.client = client
    return worker


def test_a_worker_that_hangs_ends_also_while_redis_is_away(lonely: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(redis.ConnectionError):
        lonely.beat()
    monkeypatch.setattr(alarm, "overdue_s", lambda: 16.0)
    with pytest.raises(Exited, match="70"):
        lonely.beat()


def test_a_worker_without_its_program_ends_also_while_redis_is_away(
    lonely: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []
    monkeypatch.setenv("PALLAS_PARENT", "1")
    monkeypatch.setattr(os, "kill", lambda _, number: told.append(number))
    lonely.beat()
    lonely.beat()
    assert told == [15]
    # it was told, and waits for Redis to sign off
    lonely.ending_since -= 61
    with pytest.raises(Exited, match="70"):
        lonely.beat()
