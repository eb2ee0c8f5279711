"""The embedded Redis has one owner: never two on one folder, whatever state the first is in."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from backend.queueing.connection import State, connect, state_of
from backend.run import embedded_redis
from backend.run.embedded_redis import owner, running
from backend.settings import Settings
from tests.http.stack import Stack
from tests.waiting import HANG_S, wait_until

HOLD = """
import sys, time
from backend.run.embedded_redis import running
from backend.settings import Settings
with running(Settings()):
    print("up", flush=True)
    time.sleep(600)
"""


def servers(folder: Path) -> list[psutil.Process]:
    """Redis processes whose data lie in the folder."""
    found = []
    for process in psutil.process_iter(["name", "cmdline"]):
        # a server that runs shows its name and its socket
        command = " ".join(process.info["cmdline"] or [])
        if "redis" in (process.info["name"] or "") and str(folder) in command:
            found.append(process)
    return found


def in_thread(settings: Settings) -> tuple[threading.Thread, threading.Event, threading.Event]:
    """`running` in a thread of its own; the events say that it is up, and tell it to end."""
    up, end = threading.Event(), threading.Event()

    def run() -> None:
        with running(settings):
            up.set()
            end.wait(HANG_S)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, up, end


def test_a_second_program_takes_no_socket_from_a_server_that_is_silent(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path)
    with running(settings):
        (server,) = servers(tmp_path)
        connect(settings).set("kept", 1)
        os.kill(server.pid, signal.SIGSTOP)
        thread, up, end = in_thread(settings)
        assert not up.wait(3)
        os.kill(server.pid, signal.SIGCONT)
        assert up.wait(HANG_S)
        end.set()
        thread.join(HANG_S)
        assert [one.pid for one in servers(tmp_path)] == [server.pid]
        assert connect(settings).get("kept") == b"1"
    assert state_of(settings) is State.AWAY and servers(tmp_path) == []


def test_a_large_file_may_load_for_longer_than_a_start_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(state_dir=tmp_path)
    lines = [f"*3\r\n$3\r\nSET\r\n$6\r\n{number:06}\r\n$1\r\nx\r\n" for number in range(3000)]
    (tmp_path / "appendonly.aof").write_text("".join(lines), newline="")
    slow = tmp_path / "slow-redis"
    # a millisecond for each key
    real = embedded_redis._executable()
    slow.write_text(f'#!/bin/sh\nexec "{real}" "$@" --key-load-delay 1000\n')
    slow.chmod(0o755)
    monkeypatch.setattr(embedded_redis, "_executable", lambda: str(slow))
    monkeypatch.setattr(embedded_redis, "_START_S", 1.0)
    with running(settings):
        assert connect(settings).dbsize() == 3000


def test_the_next_program_looks_after_it_when_its_owner_is_killed(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path)
    environment = os.environ | {"PALLAS_STATE_DIR": str(tmp_path)}
    first = subprocess.Popen([sys.executable, "-c", HOLD], env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout is not None and first.stdout.readline() == "up\n"
        assert f"process {first.pid} " in str(owner(settings))
        with running(settings):
            assert f"process {first.pid} " in str(owner(settings))
            first.kill()
            first.wait()
            wait_until(lambda: f"process {os.getpid()} " in str(owner(settings)))
            # what the first one left behind is used, until it ends
            (left,) = servers(tmp_path)
            connect(settings).set("kept", 1)
            time.sleep(1.5)  # until it is on the disk
            left.kill()
            wait_until(lambda: state_of(settings) is State.UP)
            assert connect(settings).get("kept") == b"1"
        assert owner(settings) is None and servers(tmp_path) == []
    finally:
        first.kill()
        first.wait()


def test_a_second_serve_says_whose_redis_it_uses(stack: Stack, tmp_path: Path) -> None:
    environment = os.environ | {"PALLAS_STATE_DIR": str(stack.settings.state_dir)}
    command = [sys.executable, "-m", "backend", "serve", "--port", "0", "--workers", "0"]
    with (tmp_path / "second.log").open("w") as log:
        second = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
    assert second.stdout is not None and "is ready" in second.stdout.readline()
    second.terminate()
    assert second.wait(HANG_S) == 0
    said = (tmp_path / "second.log").read_text()
    assert f"is looked after by process {stack.process.pid} (backend serve" in said
    assert state_of(stack.settings) is State.UP


def test_a_folder_that_nobody_can_write_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    from backend.errors import QueueDown

    with pytest.raises(QueueDown, match="PALLAS_STATE_DIR"), running(Settings(state_dir=tmp_path / "file" / "state")):
        pass
