"""The front's threads: as many as were needed at once, and pages that answer while all of them wait."""

from __future__ import annotations

import threading
from types import SimpleNamespace

from backend.front.wsgi import _AT_ONCE, _Lanes
from tests.waiting import HANG_S, wait_until


class Asked:
    """A connection whose request is served when the test says so."""

    def __init__(self, page: str = "/predict", held: bool = True) -> None:
        self.requests = [SimpleNamespace(path=page)]
        self.begun, self.go, self.done = threading.Event(), threading.Event(), threading.Event()
        if not held:
            self.go.set()

    def service(self) -> None:
        self.begun.set()
        self.go.wait()
        self.done.set()

    def cancel(self) -> None:
        self.go.set()


def test_no_more_threads_than_were_needed_at_once() -> None:
    lanes = _Lanes(8)
    try:
        for _ in range(50):
            one = Asked(held=False)
            lanes.add_task(one)
            assert one.done.wait(HANG_S)
            # it is idle again before the next comes
            wait_until(lambda: lanes.active_count == 0)
        assert len(lanes.threads) == 1
        five = [Asked() for _ in range(5)]
        for one in five:
            lanes.add_task(one)
        assert all(one.begun.wait(HANG_S) for one in five) and len(lanes.threads) == 5
        for one in five:
            one.go.set()
    finally:
        lanes.shutdown()


def test_never_more_threads_than_allowed_and_health_has_its_own() -> None:
    lanes = _Lanes(3)
    many = [Asked() for _ in range(10)]
    try:
        for one in many:
            lanes.add_task(one)
        wait_until(lambda: sum(one.begun.is_set() for one in many) == 3)
        for page in _AT_ONCE:
            health = Asked(page, held=False)
            lanes.add_task(health)
            assert health.done.wait(HANG_S)
        assert len(lanes.threads) == 3 and not any(one.begun.is_set() for one in many[3:])
        for one in many:
            one.go.set()
        assert all(one.done.wait(HANG_S) for one in many)
    finally:
        lanes.shutdown()
    assert not lanes.threads
