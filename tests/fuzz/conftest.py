from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from backend import errors
from backend.front.app import create_app
from backend.queueing.dispatcher import Dispatcher
from backend.settings import Settings
from tests.http.stack import Stack, run_stack

THEIR_FAULT = {"PictureUnreachable"}
"""Types with a code from 500 on that a request can cause by itself."""


@dataclass
class Front:
    """The front in this process, so that thousands of requests take seconds; queue and worker are real processes."""

    app: Flask
    stack: Stack
    asked: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)

    def jobs(self) -> float:
        """How many the worker has done; it tells with its heartbeat, twice a second."""
        return self.stack.wait_for_worker().stats["jobs"]

    def post(self, page: str, body: bytes) -> TestResponse:
        answer = self.app.test_client().post(page, data=body, content_type="application/json")
        self.asked[page] += 1
        self.answered[check(answer.status_code, answer.content_type, answer.get_json(silent=True))] += 1
        return answer


def check(code: int, content_type: str | None, body: Any) -> str:
    """Every answer is JSON, and every failure has a type that says whose fault it is; gives that type."""
    assert content_type == "application/json", content_type
    assert isinstance(body, dict), body
    if code == 200:
        return "answered"
    kind = body["error"]["type"]
    assert kind in errors.names() and body["error"]["message"], body
    assert code < 500 or kind in THEIR_FAULT, body
    return str(kind)


@pytest.fixture(scope="package")
def front(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    folder = tmp_path_factory.mktemp("fuzz")
    limits = {"PALLAS_MAX_NEW_TOKENS": "2", "PALLAS_FETCH_TIMEOUT_S": "2", "PALLAS_MAX_PROPOSALS": "2"}
    with run_stack(folder, small_checkpoint, **limits, OMP_NUM_THREADS="1") as stack:
        before = stack.wait_for_worker().name
        logging.getLogger("backend").setLevel(logging.WARNING)
        settings = Settings(
            state_dir=folder / "state",
            model=str(small_checkpoint),
            max_new_tokens=2,
            show_errors=False,
            max_proposals=2,
        )
        yield Front(create_app(settings, Dispatcher(settings)), stack)
        logging.getLogger("backend").setLevel(logging.NOTSET)
        assert [worker.name for worker in stack.workers()] == [before], "the worker did not live through this"
        assert "Traceback" not in stack.log.read_text(), stack.log.read_text()[-3000:]
