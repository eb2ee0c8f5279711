"""One machine in one command: the front, the queue and the workers; and each of them alone."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

import redis

from backend.errors import BackendError
from backend.front.auth import is_loopback
from backend.front.wsgi import make_server, port_of
from backend.queueing import heartbeat
from backend.queueing.connection import connect
from backend.queueing.janitor import Janitor, abandon
from backend.run import embedded_redis
from backend.settings import Settings
from backend.system import gpus
from backend.system.imports import uncollected

log = logging.getLogger(__name__)

_STOP_PATIENCE_S = 10
_LOOK_S = 0.2
_LABEL_STUDIO_S = 5.0  # so long the ready line waits for what Label Studio says
_QUICK_DEATH_S = 10
_LONGEST_PAUSE_S = 30.0


class StartError(BackendError):
    """A part does not start; the message says why."""


@contextlib.contextmanager
def stop_signal() -> Iterator[threading.Event]:
    """An event that SIGTERM or Ctrl-C sets while the block runs."""
    stop = threading.Event()

    def handle(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    before = {kind: signal.signal(kind, handle) for kind in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


@contextlib.contextmanager
def front_running(settings: Settings) -> Iterator[str]:
    """The front answers while the block runs; gives its URL.

    Raises:
        StartError: the address cannot be listened on.
    """
    with uncollected():
        # not at the top: `serve` starts its workers first, which take longest
        from backend.front.app import create_app
        from backend.predict.late_courier import LateCourier
        from backend.predict.service import preload
        from backend.predict.teacher import Teacher
        from backend.queueing.dispatcher import Dispatcher

    if settings.password is None and not settings.allow_open and not is_loopback(settings.host):
        raise StartError(
            f"{settings.host} is reached from other machines: set PALLAS_PASSWORD (Label Studio sends it as Basic "
            "authentication), or listen without one by --allow-open (PALLAS_ALLOW_OPEN=true)"
        )
    dispatcher = Dispatcher(settings)
    try:
        server = make_server(create_app(settings, dispatcher), settings)
    except (OSError, ValueError) as error:
        raise StartError(
            f"cannot listen on {settings.host}:{settings.port} ({error}): is another program there? give --port"
        ) from None
    janitor = Janitor(settings)
    janitor.start()
    courier = LateCourier(settings, dispatcher)
    courier.start()
    teacher = Teacher(settings, dispatcher)
    teacher.start()
    # beside the model's loading, which takes longer
    threading.Thread(target=preload, name="preload", daemon=True).start()
    thread = threading.Thread(target=server.run, name="front", daemon=True)
    thread.start()
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    try:
        yield f"http://{host}:{port_of(server)}"
    finally:
        janitor.stop()
        courier.stop()
        teacher.stop()
        server.close()
        thread.join(2)


class WorkerProcess:
    """One worker as a child process, started anew whenever it ends by itself."""

    def __init__(self, settings: Settings, number: int) -> None:
        self._settings = settings
        self._number = number
        self._client = connect(settings)
        self._ending = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self.exit_code: int | None = None
        self.wanted = threading.Event()  # set when one has shown that it can start: then those that end begin anew
        self.thread = threading.Thread(target=self._keep, name=f"worker-{number}", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def stop(self) -> None:
        """Ask it to finish its job and end."""
        self._ending.set()
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def join(self, deadline: float) -> None:
        """Wait until time.monotonic() reaches the deadline, then kill it."""
        self.thread.join(max(0.0, deadline - time.monotonic()))
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self.thread.join(5)

    def _keep(self) -> None:
        pause = 0.5
        while not self._ending.is_set():
            begin = time.monotonic()
            name = f"pallas-{os.getpid()}-{self._number}-{int(time.time() * 1000):x}"
            self._process = subprocess.Popen(
                [sys.executable, "-m", "backend", "worker", "--name", name],
                env=os.environ
                | self._settings.to_environment()
                | gpus.for_worker(self._number, self._settings.device)
                | {"PALLAS_PARENT": str(os.getpid())},
                stdin=subprocess.DEVNULL,
                # Ctrl-C goes to the whole group; the worker must finish its job first
                start_new_session=True,
            )
            if self._ending.is_set():
                self._process.terminate()
            self.exit_code = self._process.wait()
            self._bury(name)
            if self._ending.is_set():
                return
            if self.exit_code and not self.wanted.is_set():
                log.error("worker %s ended (exit code %s) before any was ready", name, self.exit_code)
                while not self.wanted.wait(_LOOK_S):
                    if self._ending.is_set():
                        return
            pause = 0.5 if time.monotonic() - begin > _QUICK_DEATH_S else min(pause * 2, _LONGEST_PAUSE_S)
            # one that was drained ends well
            level = logging.ERROR if self.exit_code else logging.INFO
            log.log(level, "worker %s ended (exit code %s), a new one starts in %.1f s", name, self.exit_code, pause)
            self._ending.wait(pause)

    def _bury(self, name: str) -> None:
        try:
            lost = abandon(self._client, name)
        except redis.RedisError as error:
            log.warning("Redis does not answer (%s): the jobs of %s are found later", type(error).__name__, name)
            return
        if lost:
            log.error("worker %s took %d jobs with it", name, lost)


def serve(settings: Settings, ready: Callable[[str], None]) -> int:
    """Run everything until SIGTERM or Ctrl-C; the process's exit code.

    Args:
        settings: for all parts.
        ready: called with the lines to show when the first worker is ready: that it is, and what is not right yet.

    Raises:
        StartError, QueueDown: a part does not start.
    """
    if (owner := embedded_redis.owner(settings)) is not None:
        log.warning(
            "the embedded Redis in %s is looked after by %s: this program uses it too, and the same queue",
            *(settings.state_dir, owner),
        )
    with stop_signal() as stop, embedded_redis.running(settings), contextlib.ExitStack() as parts:
        workers = [WorkerProcess(settings, number) for number in range(settings.workers)]
        for worker in workers:
            worker.start()
        hints: list[str] = []
        asking = threading.Thread(target=_ask_label_studio, args=(settings, hints), daemon=True)
        asking.start()
        try:
            url = parts.enter_context(front_running(settings))
            if _wait_until_ready(settings, workers, stop):
                first = next((one for one in _everybody(settings) if one.state == "ready"), None)
                what = f"{first.model_version} on {first.device}" if first else "no worker of its own"
                for worker in workers:
                    worker.wanted.set()
                asking.join(_LABEL_STUDIO_S)
                ready(f"Pallas is ready: {url} — {what}, {len(workers)} worker(s). Ctrl-C stops everything.")
                for hint in hints:
                    ready(f"  not right yet: {hint}")
                stop.wait()
        finally:
            for worker in workers:
                worker.stop()
            deadline = time.monotonic() + _STOP_PATIENCE_S
            for worker in workers:
                worker.join(deadline)
    return 0


def _ask_label_studio(settings: Settings, hints: list[str]) -> None:
    """What `check` says of Label Studio, where that is not good."""
    from backend.run.check import check_label_studio

    finding = check_label_studio(settings)
    if not finding.ok:
        hints.append(finding.text)


def _wait_until_ready(settings: Settings, workers: list[WorkerProcess], stop: threading.Event) -> bool:
    """True when a worker is ready, False when a stop was asked for.

    Raises:
        StartError: a worker ended before it was ready; it has said why.
    """
    while workers and not stop.wait(0.1):
        if any(worker.state == "ready" for worker in _everybody(settings)):
            return True
        codes = [worker.exit_code for worker in workers if worker.exit_code is not None]
        if codes:
            raise StartError(f"the worker ended with code {codes[0]} before it was ready: its message is above")
    return not stop.is_set()


def _everybody(settings: Settings) -> list[heartbeat.WorkerStatus]:
    with contextlib.closing(connect(settings)) as client:
        try:
            return heartbeat.everybody(client)
        except redis.RedisError:
            return []


def run_front(settings: Settings, ready: Callable[[str], None]) -> int:
    """Run the front alone until SIGTERM or Ctrl-C; the process's exit code."""
    with stop_signal() as stop, embedded_redis.running(settings), front_running(settings) as url:
        ready(f"The front is ready: {url}")
        stop.wait()
    return 0
