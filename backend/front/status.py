"""GET /: how things stand, as a page for a person with a browser and as JSON for a program."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from importlib.resources import files
from typing import Any

import jinja2
import redis

from backend.errors import BackendError
from backend.front.training import Training
from backend.predict.service import Service
from backend.queueing.dispatcher import Dispatcher

_KEPT = 20
_LONGEST = 300


class ErrorLog:
    """The last errors: type, message, time, page and request."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._last: deque[dict[str, str]] = deque(maxlen=_KEPT)

    def add(self, error: BackendError, page: str, request_id: str) -> None:
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        with self._lock:
            self._counts[error.type] += 1
            said = {"type": error.type, "message": str(error)[:_LONGEST]}
            self._last.appendleft({"time": moment, **said, "page": page, "request_id": request_id})

    def view(self) -> dict[str, Any]:
        """Counts since this front began, and the newest errors first."""
        with self._lock:
            return {"counts": dict(self._counts.most_common()), "last": list(self._last)}


def brief(dispatcher: Dispatcher) -> dict[str, Any]:
    """What Label Studio's health check reads, which waits for a second. Raises redis.RedisError."""
    version, workers = dispatcher.look()
    states = [worker.state for worker in workers]
    return {
        "status": "UP",
        "model_class": "Pallas",
        "model_version": version,
        "workers": {state: states.count(state) for state in ("loading", "ready")},
    }


def full(dispatcher: Dispatcher, error_log: ErrorLog, service: Service, training: Training) -> dict[str, Any]:
    """`brief`, and queue, workers, training, errors, faulty configs, lost suggestions and what was learned.

    Where Redis is away it says so instead of raising.
    """
    shown: dict[str, Any]
    each: list[dict[str, Any]] = []
    undecided: list[dict[str, Any]] = []
    configs: list[dict[str, Any]] = []
    fits: list[dict[str, object]] = []
    versions: list[dict[str, str]] = []
    learned: list[dict[str, Any]] = []
    try:
        shown = brief(dispatcher) | {"queue": dispatcher.depth()}
        each = [
            {name: getattr(worker, name) for name in ("name", "state", "model_version", "device", "host")}
            for worker in dispatcher.workers()
        ]
        undecided = [{"project": one.project, "task": one.task, "text": one.text} for one in service.lost.all()[:_KEPT]]
        fits = training.shown()[:_KEPT]
        versions = [{"name": name, "text": why} for name, why in training.faults().items()]
        configs = [{"project": note.project, "text": note.text} for note in service.configs.all()]
        learned = [
            {
                "project": state.project,
                "labels": len(state.examples),
                "examples": sum(state.examples.values()),
                "believed": sum(trust > 0 for trust in (state.trusted or {}).values()),
                "disagreements": state.disagreements,
            }
            for state in service.memory.states()
        ]
    except redis.RedisError:
        shown, each = (
            {"status": "DOWN", "reason": "the queue (Redis) cannot be reached: start it, or correct REDIS_URL"},
            [],
        )
    return shown | {
        "worker": each,
        "errors": error_log.view(),
        "configs": configs,
        "training": fits,
        "versions_not_used": versions,
        "submitted_before_the_tick": undecided,
        "learned": learned,
    }


def page(shown: dict[str, Any]) -> str:
    """`full` as HTML; all of it is escaped."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(files("backend.front").joinpath("status.html").read_text("utf-8")).render(s=shown)
