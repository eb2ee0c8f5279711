"""Clicks that are computed beside each other: they join while others are under way, each is answered when it is done.

Token steps of many rows take little longer than those of one; so sixteen annotators wait little longer than one does,
and none waits until another's caption has ended.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from backend.queueing import alarm
from backend.queueing.queues import Execution, Job, Queue
from backend.queueing.rq_worker import QueueWorker
from backend.worker.engine import answering

_MOST = 64
"""Clicks that may join one after the other before the worker looks at everything else again."""

log = logging.getLogger(__name__)

Begun = tuple[Job, Execution]


class Sitting:
    """One stretch of work on clicks.

    Args:
        worker: that takes them.
        queues: that they wait in, the first before the others.
        may_join: whether a job may be computed beside others.
    """

    def __init__(self, worker: QueueWorker, queues: Sequence[Queue], may_join: Callable[[Job], bool]) -> None:
        self._worker = worker
        self._queues = list(queues)
        self._may_join = may_join
        self._begun: list[Begun] = []
        self._waiting: dict[int, tuple[Job, Execution, Queue]] = {}

    def hold(self, job: Job, execution: Execution, queue: Queue) -> list[Begun]:
        """Answer a click that was begun and all that join it; those."""
        self._begin(job, execution, queue)
        guard = alarm.Alarm(float(job.timeout or queue.DEFAULT_TIMEOUT))
        try:
            with guard:
                for payload in answering(job.args[0], self._more):
                    self._finish(id(payload))
                    # the others have their whole time from here on
                    guard.setup_death_penalty()
        except alarm.JobOverran:
            log.warning("%d clicks take too long together: each is tried alone", len(self._waiting))
        except Exception:
            log.exception("%d clicks failed together", len(self._waiting))
        for left in list(self._waiting):
            self._finish(left)
        self._worker.rest()
        return self._begun

    def _more(self) -> list[dict[str, Any]]:
        """Payloads of clicks that begin now."""
        payloads: list[dict[str, Any]] = []
        for queue in list(self._queues):
            while len(self._begun) < _MOST and not self._worker.is_ending and (job := self._next(queue)) is not None:
                self._begin(job, self._worker.prepare_execution(job), queue)
                payloads.append(job.args[0])
        return payloads

    def _next(self, queue: Queue) -> Job | None:
        """The next click that may join, if one waits; a job of another kind goes back to the front, to come next."""
        job = self._worker.take_another(queue)
        if job is not None and not self._may_join(job):
            queue.push_job_id(job.id, at_front=True)
            self._queues.remove(queue)
            return None
        return job

    def _begin(self, job: Job, execution: Execution, queue: Queue) -> None:
        self._begun.append((job, execution))
        self._waiting[id(job.args[0])] = job, execution, queue

    def _finish(self, payload: int) -> None:
        """The reply is there already, or is made now."""
        job, execution, queue = self._waiting.pop(payload)
        self._worker.perform_job(job, queue, execution)
