"""The time limit of a job: when it is over, the job is interrupted wherever it is, and nothing but the job."""

from __future__ import annotations

import signal
import time
from types import FrameType
from typing import Any

from rq.timeouts import BaseDeathPenalty

_AGAIN_S = 2.0
"""An interruption that was lost (in a destructor, in a library that catches everything) comes again after so long."""

_running: Alarm | None = None


class JobOverran(BaseException):
    """A job's time is over. No `Exception`: what catches those to answer for one picture, or to try another way, is not
    meant by it.
    """


class Alarm(BaseDeathPenalty):
    """Interrupts the block that it guards, in the process's main thread, by JobOverran.

    rq makes it with the exception that it would raise itself; ours takes its place.
    """

    def __init__(self, timeout: float, exception: type[BaseException] | None = None, **_: Any) -> None:
        super().__init__(timeout, JobOverran)
        self.until = 0.0

    def __exit__(self, *_: object) -> None:
        off()

    def setup_death_penalty(self) -> None:
        global _running
        signal.signal(signal.SIGALRM, _ring)
        _running = self
        self.set()

    def cancel_death_penalty(self) -> None:
        off()

    def set(self) -> None:
        """For the whole time from now on."""
        self.until = time.monotonic() + self._timeout
        signal.setitimer(signal.ITIMER_REAL, self._timeout, _AGAIN_S)


def off() -> None:
    """No job runs any more; what rings from here on is not heard."""
    global _running
    _running = None
    signal.setitimer(signal.ITIMER_REAL, 0)


def begin_anew() -> None:
    """The job that runs gets its whole time again."""
    if _running is not None:
        _running.set()


def is_set() -> bool:
    """Whether a job runs."""
    return _running is not None


def overdue_s() -> float:
    """By how much the job that runs is over its time; below zero while it is not, and where none runs."""
    running = _running
    return time.monotonic() - running.until if running is not None else -1.0


def _ring(_signal: int, _frame: FrameType | None) -> None:
    if _running is not None:
        raise JobOverran(f"the job takes longer than {_running._timeout:g} seconds")
