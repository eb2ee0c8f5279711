"""Waiting for what comes to pass sooner or later: limits here bound a hang and nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")

HANG_S = 180.0


def wait_until(done: Callable[[], Found], seconds: float = HANG_S) -> Found:
    """What is done, as soon as it is true."""
    until = time.monotonic() + seconds
    while not (found := done()):
        assert time.monotonic() < until, "it did not come to pass"
        time.sleep(0.05)
    return found
