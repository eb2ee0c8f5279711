"""rq's worker as ours builds on it: one process that does not fork, survives outages of Redis, takes jobs together."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from typing import Self

import redis
from redis.client import Pipeline
from rq import SimpleWorker, worker_registration
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.queue import Queue
from rq.registry import StartedJobRegistry
from rq.serializers import JSONSerializer
from rq.utils import now
from rq.worker import WorkerStatus

from backend.queueing import alarm
from backend.queueing.connection import BLOCK_S
from backend.queueing.queues import make_queue

_REGISTERED_S = 86_400
"""How long rq's registry believes that a job runs: whether its worker lives, the janitor knows better."""

_BEAT_S = 5.0

log = logging.getLogger(__name__)


class QueueWorker(SimpleWorker):
    """Takes jobs from queues in their order and calls what they name, in this process; made by `on`."""

    death_penalty_class = alarm.Alarm
    _beaten = -math.inf
    # after an outage the next try comes within seconds, not after a minute
    max_connection_wait_time = 2.0

    @classmethod
    def on(cls, names: Sequence[str], name: str, client: redis.Redis) -> Self:
        """A worker for the queues of these names, the first before the others, on a connection that may block."""
        return cls(
            [make_queue(queue, client) for queue in names],
            name=name,
            connection=client,
            serializer=JSONSerializer,
            # by rq's reckoning 15 s longer than it waits for a job
            worker_ttl=BLOCK_S + 15,
            log_job_description=False,
        )

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:
        return _REGISTERED_S

    def clean_registries(self) -> None:
        # rq would also fail what it takes for abandoned, by the clock of whoever looks
        for queue in self.queues:
            if queue.acquire_maintenance_lock():
                queue.finished_job_registry.cleanup()
                queue.failed_job_registry.cleanup()
                worker_registration.clean_worker_registry(queue)
                queue.release_maintenance_lock()
        self.last_cleaned_at = now()  # type: ignore[assignment]  # rq declares None

    def subscribe(self) -> None:
        """rq's commands, which its own thread would listen for: it ends in an outage of Redis, and they with it."""

    def set_shutdown_requested_date(self) -> None:
        """Nobody reads it, and a signal must not wait for Redis."""

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        """rq's own sign of life: several a job, of which one every few seconds is enough. Each would be a wait."""
        if pipeline is None:
            if time.monotonic() - self._beaten < _BEAT_S:
                return
            self._beaten = time.monotonic()
        super().heartbeat(timeout, pipeline)

    def prepare_execution(self, job: Job) -> Execution:
        """All that is noted before a job is performed, in one go; rq does it in two.

        From here on the job counts as running: if this worker dies, it is failed, not put back to kill the next.
        """
        ttl = self.get_heartbeat_ttl(job)
        with self.connection.pipeline() as pipeline:
            execution = Execution.create(job, ttl, pipeline=pipeline, worker_name=self.name)
            self.executions[execution.id] = execution
            self.set_state(WorkerStatus.BUSY, pipeline=pipeline)
            self.heartbeat(ttl, pipeline=pipeline)
            job.heartbeat(now(), ttl, pipeline=pipeline)
            job.prepare_for_execution(self.name, pipeline=pipeline)
            pipeline.persist(job.key)
            self.note_begin(pipeline)
            pipeline.execute()
        return execution

    def note_begin(self, pipeline: Pipeline) -> None:
        """What a worker has to say beside rq when it begins a job, in the same go."""

    def prepare_job_execution(self, job: Job, remove_from_intermediate_queue: bool = False) -> None:
        """Done in `prepare_execution`."""

    def handle_execution_ended(self, job: Job, queue: Queue, heartbeat_ttl: int) -> None:
        alarm.off()
        # no sign of life: the job's end is written next
        job.ended_at = now()

    def handle_job_success(
        self, job: Job, queue: Queue, started_job_registry: StartedJobRegistry, execution: Execution
    ) -> None:
        """All that is noted of a job that ended well, in one go; rq first looks for jobs that wait for this one, twice.

        No job of ours waits for another, none is repeated, and no rate of them is limited.
        """
        assert job.started_at is not None and job.ended_at is not None
        kept_s = job.get_result_ttl(self.default_result_ttl)
        with self.connection.pipeline() as pipeline:
            self.increment_successful_job_count(pipeline)
            self.increment_total_working_time(job.ended_at - job.started_at, pipeline)
            job._handle_success(
                kept_s,
                pipeline=pipeline,
                worker_name=self.name,
                execution_id=execution.id,
                execution_started_at=execution.created_at,
                execution_ended_at=job.ended_at,
            )
            job.cleanup(kept_s, pipeline=pipeline, remove_from_queue=False)
            self.cleanup_execution(job, pipeline=pipeline, execution=execution)
            pipeline.execute()

    def check_for_suspension(self, burst: bool) -> None:
        """rq's command `suspend`: our workers are told to end instead (`drain`), and are asked about it elsewhere."""

    def set_state(self, state: str, pipeline: Pipeline | None = None) -> None:
        """rq says twice that it is idle."""
        if pipeline is not None or state != self.get_state():
            super().set_state(state, pipeline)

    def teardown(self) -> None:
        try:
            super().teardown()
        except redis.RedisError as error:
            log.warning("Redis does not answer (%s): the worker ends without signing off", type(error).__name__)

    def take_another(self, queue: Queue) -> Job | None:
        """The next job of a queue, if one waits; not begun yet."""
        while (taken := Queue.lpop([queue.key], None, connection=self.connection)) is not None:
            job = queue.fetch_job(taken[1].decode())
            # else it was withdrawn, or its time is over
            if job is not None and job.get_status(refresh=False) == JobStatus.QUEUED:
                return job
        return None

    def waiting(self, queue: Queue, start: int, count: int) -> list[Job]:
        """So many jobs of a queue from the `start`-th on, the next one first; they stay there."""
        ids = queue.get_job_ids(start, count)
        found = Job.fetch_many(ids, self.connection, JSONSerializer) if ids else []
        return [job for job in found if job is not None]

    def perform_all(self, begun: Sequence[tuple[Job, Execution]], queue: Queue) -> None:
        """Jobs that were begun, one after the other; busy until the last of them is over."""
        for job, execution in begun:
            self.perform_job(job, queue, execution)
        self.rest()

    def rest(self) -> None:
        """Nothing is in hand any more."""
        self.set_state(WorkerStatus.IDLE)

    @property
    def is_ending(self) -> bool:
        """Whether it was told to end."""
        return bool(self._stop_requested)
