"""The production WSGI server (waitress), with its own errors as JSON like everybody else's."""

from __future__ import annotations

import json
import logging
import uuid
from typing import TYPE_CHECKING

import waitress
from waitress.channel import HTTPChannel
from waitress.server import BaseWSGIServer, MultiSocketServer, TcpWSGIServer
from waitress.task import ErrorTask, ThreadedTaskDispatcher

from backend import logs
from backend.errors import BackendError, BadRequest, BodyTooLarge
from backend.settings import Settings

if TYPE_CHECKING:
    from flask import Flask

log = logging.getLogger(__name__)

_IDLE_S = 60  # after it a connection on which nothing is asked is closed; one that waits for an answer is not
_AT_ONCE = {"/live": 1, "/health": 2}
"""Pages with threads of their own, and how many: a silent Redis holds up /health, and must not hold up /live."""
_CONNECTIONS = 500
"""Open at once; clients keep theirs, and waitress' own limit of a hundred would lock everybody else out."""


class _JsonErrorTask(ErrorTask):
    """What waitress refuses before the app sees it: a body over the limit, a request that is no HTTP."""

    def execute(self) -> None:
        fault = self.request.error
        error: BackendError = BadRequest(f"this is no HTTP request that can be read: {fault.body}")
        if fault.code == 413:
            error = BodyTooLarge("the request is too large: raise PALLAS_MAX_BODY_BYTES, or send pictures by URL")
        request_id = uuid.uuid4().hex
        with logs.of_request(request_id):
            log.info("%d before the app: %s", fault.code, fault.body)
        body = json.dumps({"error": error.to_wire() | {"request_id": request_id}}).encode()
        self.status = f"{fault.code} {fault.reason}"
        self.response_headers += [("Content-Type", "application/json"), ("X-Request-Id", request_id)]
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


class _OnDemand(ThreadedTaskDispatcher):
    """Up to `most` threads, as many as were ever needed at once.

    Waitress would start all of them at first and then let them take turns, so that in the end each of them has the
    stack and the heap of the deepest request: with 288 threads 50 MB, taken over hours.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def add_task(self, task: HTTPChannel) -> None:
        with self.lock:
            threads = len(self.threads)
            needed = self.active_count + len(self.queue) + 1 > threads
        if needed and threads < self._most:
            self.set_thread_count(threads + 1)
        with self.lock:
            self.queue.append(task)
            self.queue_cv.notify()


class _Lanes(_OnDemand):
    """Threads for requests, and others for the pages that must answer while all of those wait."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self._own = {page: _OnDemand(most) for page, most in _AT_ONCE.items()}

    def add_task(self, task: HTTPChannel) -> None:
        lane = self._own.get(getattr(task.requests[0], "path", ""))
        if lane is None:
            super().add_task(task)
        else:
            lane.add_task(task)

    def shutdown(self, cancel_pending: bool = True, timeout: float = 5) -> bool:
        for lane in self._own.values():
            lane.shutdown(cancel_pending, timeout)
        return bool(super().shutdown(cancel_pending, timeout))


class _Channel(HTTPChannel):
    error_task_class = _JsonErrorTask


def make_server(app: Flask, settings: Settings) -> BaseWSGIServer | MultiSocketServer:
    """A server that listens; `run()` serves until `close()`.

    Raises:
        OSError, ValueError: the address cannot be listened on.
    """
    sockets: dict[int, TcpWSGIServer] = {}
    server = waitress.create_server(
        app,
        map=sockets,
        host=settings.host,
        port=settings.port,
        _dispatcher=_Lanes(settings.threads),
        max_request_body_size=settings.max_body_bytes,
        channel_timeout=_IDLE_S,
        connection_limit=_CONNECTIONS,
        # select knows no file number above 1023
        asyncore_use_poll=True,
        ident=None,
    )
    for listener in list(sockets.values()):
        if isinstance(listener, TcpWSGIServer):
            listener.channel_class = _Channel
    return server


def port_of(server: BaseWSGIServer | MultiSocketServer) -> int:
    """The port it listens on (chosen by the system where the settings say 0)."""
    if isinstance(server, MultiSocketServer):
        return int(server.effective_listen[0][1])
    return int(server.effective_port)
