"""Tasks on their way through the queue: each with its jobs, and completed when all of them are over."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import redis

from backend import logs
from backend.errors import BackendError, NoWorker, QueueFull
from backend.job import JobReply, JobRequest
from backend.label_studio.protocol import LabelStudioTask
from backend.predict.sending import request_of
from backend.queueing.dispatcher import Dispatcher
from backend.queueing.queues import Result
from backend.settings import Settings
from backend.tasks.plan import Plan
from backend.tasks.planner import TaskResult

_LOOK_EVERY_S = 5.0

log = logging.getLogger(__name__)


@dataclass
class _Task:
    task: LabelStudioTask
    jobs: dict[str, tuple[list[Plan], JobRequest]]  # two pages may show the same picture: one job answers both
    replies: dict[str, JobReply] = field(default_factory=dict)
    parts: dict[str, JobReply] = field(default_factory=dict)  # of videos that are in work: what is known so far
    errors: list[BackendError] = field(default_factory=list)

    def result(self, key: str) -> TaskResult:
        return TaskResult(key, self.task, self.answered(self.replies), tuple(self.errors))

    def answered(self, replies: Mapping[str, JobReply]) -> tuple[tuple[Plan, JobReply], ...]:
        """Each plan with its reply, in the order of the jobs."""
        known = [(plans, replies[job]) for job, (plans, _) in self.jobs.items() if job in replies]
        return tuple((plan, reply) for plans, reply in known for plan in plans)


class InFlight:
    """What is in the queue of one program's tasks; not for several threads.

    Args:
        settings: of the jobs.
        dispatcher: carries them.
        queue: that they wait in.
        keep: leave results in Redis for others who ask the same; else they go when they are collected.
        look: what pictures look like is wanted of each, too.
    """

    def __init__(
        self, settings: Settings, dispatcher: Dispatcher, queue: str, keep: bool = False, look: bool = False
    ) -> None:
        self._look = look
        self._settings = settings
        self._dispatcher = dispatcher
        self._queue = queue
        self._keep = keep
        self._tasks: dict[str, _Task] = {}
        self._open: dict[str, set[str]] = {}  # job → the tasks that wait for it: two may ask the same
        self._looked = time.monotonic()

    def __len__(self) -> int:
        return len(self._tasks)

    def __iter__(self) -> Iterator[str]:
        """The keys of what is under way."""
        return iter(self._tasks)

    def __contains__(self, key: str) -> bool:
        return key in self._tasks

    def submit(
        self,
        key: str,
        task: LabelStudioTask,
        plans: Sequence[Plan],
        request_id: str,
        alone: bool = False,
        project: str = "",
    ) -> None:
        """Put a task's jobs into the queue; those without anything to do are left out, unless pictures are looked at.

        `alone`: a worker died with it in hand, so that no other task may be in its hand beside it. `project`: as of
        `request_of`.

        Raises:
            NoWorker, QueueFull: later it may work; what the plan's picture is found wrong with; redis.RedisError.
        """
        jobs: dict[str, tuple[list[Plan], JobRequest]] = {}
        for plan in plans:
            if plan.groups() or self._look:
                client = self._dispatcher.redis
                request = request_of(plan, request_id, self._settings, client, alone, project, look=self._look)
                jobs.setdefault(self._dispatcher.submit_once(request, self._queue), ([], request))[0].append(plan)
        self._tasks[key] = _Task(task, jobs)
        for job in jobs:
            self._open.setdefault(job, set()).add(key)

    def completed(self, seconds: float) -> list[TaskResult]:
        """Wait until a task is over; those that are by then, none after so many seconds."""
        until = time.monotonic() + seconds
        # of the others, what turned out to have nothing to do
        over = [entry.result(key) for key, entry in self._tasks.items() if not entry.jobs]
        for idle in over:
            del self._tasks[idle.key]
        while self._open and not over:
            left = until - time.monotonic()
            if left <= 0:
                break
            self._look_for_missing()
            for job, result in self._dispatcher.results(self._open, min(left, _LOOK_EVERY_S)).items():
                try:
                    for key in sorted(self._open[job]):
                        whole = self._take(key, job, result)
                        self._open[job].discard(key)
                        over += [whole] if whole is not None else []
                except redis.RedisError:
                    # the rest is read again; what is completed must not be lost
                    if over:
                        return over
                    raise
                del self._open[job]
                if not self._keep:
                    # in an outage of Redis it stays until it expires; what is completed must not be lost
                    with contextlib.suppress(redis.RedisError):
                        self._dispatcher.withdraw(job)
        return over

    def withdraw(self) -> None:
        """Take everything out of the queue again; what a worker has in hand is finished for nobody."""
        for job in self._open:
            self._dispatcher.withdraw(job)
        self._open.clear()
        self._tasks.clear()

    def so_far(self, key: str) -> TaskResult:
        """What is known of a task that is under way: answered jobs, and videos as far as they are tracked."""
        entry = self._tasks[key]
        return TaskResult(key, entry.task, entry.answered(entry.replies | entry.parts))

    def share(self, key: str) -> float:
        """How much of a task that is under way is done, 0..1."""
        entry = self._tasks[key]
        done = float(len(entry.replies) + len(entry.errors))
        done += sum(reply.clip.share for reply in entry.parts.values() if reply.clip is not None)
        return done / max(1, len(entry.jobs))

    def _take(self, key: str, job: str, result: Result) -> TaskResult | None:
        entry = self._tasks[key]
        try:
            reply = self._dispatcher.unpack(result, entry.jobs[job][1])
            if reply.clip is not None and not reply.clip.done:
                self._go_on(key, job, reply)
                return None
            entry.replies[job] = reply
        except BackendError as error:
            entry.errors.append(error)
        if len(entry.replies) + len(entry.errors) < len(entry.jobs):
            return None
        del self._tasks[key]
        return entry.result(key)

    def _go_on(self, key: str, job: str, reply: JobReply) -> None:
        """The next part of a video's work. Raises what `submit_once` raises."""
        entry = self._tasks[key]
        plans, request = entry.jobs[job]
        assert reply.clip is not None and request.clip is not None
        clip = request.clip.model_copy(update={"part": request.clip.part + 1})
        following = request.model_copy(update={"clip": clip, "sent_at": time.time()})
        again = self._dispatcher.submit_once(following, self._queue, reply.clip.worker)
        del entry.jobs[job]
        entry.parts.pop(job, None)
        entry.jobs[again] = (plans, following)
        entry.parts[again] = reply
        self._open.setdefault(again, set()).add(key)

    def _look_for_missing(self) -> None:
        """Jobs that Redis has lost (it was emptied, or its clock jumped) go into the queue again."""
        if time.monotonic() - self._looked < _LOOK_EVERY_S:
            return
        self._looked = time.monotonic()
        for job in self._dispatcher.missing(self._open):
            for key in set(self._open[job]):
                plans, request = self._tasks[key].jobs[job]
                with logs.of_request(request.request_id):
                    log.warning("a job is gone from the queue: it is put in again")
                try:
                    again = self._dispatcher.submit_once(request, self._queue)
                except (NoWorker, QueueFull):
                    return  # looked for again in a while
                self._open[job].discard(key)
                del self._tasks[key].jobs[job]
                self._tasks[key].jobs[again] = (plans, request)
                self._open.setdefault(again, set()).add(key)
            if not self._open[job]:
                del self._open[job]
