"""The queues, on rq: whatever we use of it, and wherever we lean on how it works inside, is here, in `rq_worker` and in
`alarm`; `tests/faults/test_rq.py` holds rq to it.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Any

import redis
from rq import Queue
from rq.exceptions import (
    AbandonedJobError,
    DeserializationError,
    DuplicateJobError,
    InvalidJobOperation,
    NoSuchJobError,
)
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.job_lifecycle import record_job_failure
from rq.results import Result
from rq.serializers import JSONSerializer

from backend.queueing.alarm import JobOverran
from backend.queueing.connection import pieces

INTERACTIVE, BATCH, BULK, LEARN = "interactive", "batch", "bulk", "learn"
TUNING = "tuning"
"""Of runs of `fit` that are to be begun."""

CLIPS = "clips"
STRICT_ORDER = (INTERACTIVE, BATCH, BULK, LEARN, TUNING)
"""A worker takes from a later queue only when all earlier ones are empty."""

JOBS = "pallas:jobs"
"""The set of all jobs' ids that are not known to be over; the janitor looks whether they are where they should be."""

PRIVATE = "pallas:private"
"""The set of workers that have a queue of their own."""

__all__ = ["Execution", "Job", "Queue", "Result"]  # rq's, for who needs no more of it than their names

_AT_ONCE = 1
"""As an expiry time in rq's registry, which holds seconds since 1970: long past by any clock."""


class Failure(Enum):
    """Why a job has no reply."""

    LOST = "its worker went away"
    OVERRAN = "its time was over"
    FAULT = "it failed; the trace says why"


class _Private(Queue):
    """One of the queues, but a job that is put in waits under a key that one worker alone looks at."""

    def __init__(self, name: str, key: str, client: redis.Redis) -> None:
        super().__init__(name, connection=client, serializer=JSONSerializer)
        self._private = key

    @property
    def key(self) -> str:
        return self._private


def make_queue(name: str, client: redis.Redis, key: str | None = None) -> Queue:
    """An rq queue whose payloads are JSON: unpickling what lies in Redis would run whoever can write there.

    With a key (`private_key`, `clips_key`) jobs wait there, and belong to this queue all the same.
    """
    if key is not None:
        return _Private(name, key, client)
    return Queue(name, connection=client, serializer=JSONSerializer)


def private_key(worker: str) -> str:
    """Redis key of the queue that only this worker takes from, before all others: clicks on pictures it holds."""
    return f"{Queue.redis_queue_namespace_prefix}{INTERACTIVE}:{worker}"


def clips_key(worker: str) -> str:
    """Redis key of the queue that only this worker takes from, after clicks: further parts of videos it has in hand."""
    return f"{Queue.redis_queue_namespace_prefix}{CLIPS}:{worker}"


def enqueue(
    queue: Queue,
    function: str,
    payload: dict[str, Any],
    description: str,
    *,
    limit_s: int,
    result_s: int,
    failure_s: int,
    waits_s: int | None = None,
    job_id: str | None = None,
) -> Job:
    """Put a job in.

    Args:
        queue: of `make_queue`.
        function, payload: what is called, and its one argument.
        description: for people; rq's own would be the argument, which may hold private addresses.
        limit_s: how long the job may take.
        result_s, failure_s: how long its result stays.
        waits_s: it is forgotten if nobody has begun it by then; None: never.
        job_id: where there is a job of this id already, nothing happens.
    """
    job = queue.create_job(
        function,
        args=(payload,),
        timeout=limit_s,
        result_ttl=result_s,
        failure_ttl=failure_s,
        ttl=waits_s,
        description=description,
        job_id=job_id,
        status=JobStatus.QUEUED,
    )
    if job_id is None:
        with queue.connection.pipeline() as pipe:
            queue.enqueue_job(job, pipeline=pipe)
            pipe.sadd(JOBS, job.id)
            pipe.execute()
        return job
    # first, so that a job which is put in is known whatever happens then
    queue.connection.sadd(JOBS, job.id)
    with contextlib.suppress(DuplicateJobError):
        queue.enqueue_job(job, unique=True)
    return job


def find(client: redis.Redis, job_id: str) -> Job | None:
    """A job that Redis still has."""
    try:
        return Job.fetch(job_id, connection=client, serializer=JSONSerializer)
    except NoSuchJobError:
        return None


def forget(client: redis.Redis, job_id: str) -> None:
    """A job and its result leave Redis."""
    if (job := find(client, job_id)) is not None:
        drop(job)


def drop(job: Job) -> None:
    """As `forget`, of a job that was found."""
    # another who shared it may have been quicker; rq does not take that for done
    with contextlib.suppress(InvalidJobOperation):
        job.delete()


def take_back(job: Job) -> bool:
    """Whether nobody has begun a job; nobody does then. One whose time to wait was over counts as not begun."""
    try:
        if job.get_status() != JobStatus.QUEUED:
            return False
        job.cancel()
    except (InvalidJobOperation, NoSuchJobError):
        pass  # it expired just now
    return True


def job_key(job_id: str) -> str:
    """Redis key of the hash that a job is, with `status` and `origin` among its fields."""
    return str(Job.key_for(job_id))


def asked(job: Job) -> tuple[str, Sequence[Any]] | None:
    """The name of a job's function and its arguments; None where what lies in Redis is no job."""
    try:
        return str(job.func_name), job.args
    except (DeserializationError, LookupError, TypeError, ValueError):
        return None


def results(client: redis.Redis, job_ids: Iterable[str], seconds: float) -> dict[str, Result]:
    """Wait until one of the jobs has a result, on a connection that may block; those that are there by then."""
    streams: dict[Any, Any] = {Result.get_key(job_id): "0-0" for job_id in job_ids}
    if not streams:
        return {}
    found: Any = None
    for piece_s in pieces(seconds):
        found = client.xread(streams, block=math.ceil(1000 * piece_s))
        if found:
            break
    named = {}
    for key, entries in found or []:
        job_id = key.decode().removeprefix(Result.get_key(""))
        name, payload = entries[-1]
        named[job_id] = Result.restore(job_id, name.decode(), payload, client, JSONSerializer)
    return named


def failure(result: Result) -> Failure | None:
    """None of a job that has a reply."""
    if result.type is Result.Type.SUCCESSFUL:
        return None
    trace = result.exc_string or ""
    if AbandonedJobError.__name__ in trace:
        return Failure.LOST
    # the other is rq's own, of workers before an upgrade
    if JobOverran.__name__ in trace or "JobTimeoutException" in trace:
        return Failure.OVERRAN
    return Failure.FAULT


def running(client: redis.Redis, queue: str) -> list[tuple[str, str, str]]:
    """Of each job of a queue that runs its id, rq's key of the execution, and the name of the worker that began it."""
    registry = make_queue(queue, client).started_job_registry
    executions = [
        Execution(execution_id, job_id, client)
        for job_id, execution_id in registry.get_job_and_execution_ids(cleanup=False)
    ]
    pipe = client.pipeline(transaction=False)
    for execution in executions:
        pipe.hget(execution.key, "worker_name")
    names = pipe.execute() if executions else []
    return [
        (execution.job_id, execution.composite_key, (name or b"").decode())
        for execution, name in zip(executions, names, strict=True)
    ]


def abandon(client: redis.Redis, queue: str, executions: Sequence[str]) -> None:
    """Fail jobs that run, by the keys of their executions, and wake who waits; one that has finished stays as it is."""
    if executions:
        registry = make_queue(queue, client).started_job_registry
        client.zadd(registry.key, dict.fromkeys(executions, _AT_ONCE), xx=True)
        registry.cleanup(timestamp=_AT_ONCE)


def fail(job: Job, why: str) -> None:
    """Fail a job that no worker has in hand."""
    with job.connection.pipeline() as pipe:
        record_job_failure(job, why, pipe)
        pipe.execute()


def lose(job: Job) -> None:
    """As `fail`, because its worker is gone."""
    fail(job, f"{AbandonedJobError.__name__}: started, and nobody runs it")


def put_back(client: redis.Redis, job: Job) -> None:
    """A job that waits goes to the front of its queue, and is in it once."""
    key = make_queue(job.origin, client).key
    with client.pipeline() as pipe:
        pipe.lrem(key, 0, job.id)
        pipe.lpush(key, job.id)
        pipe.execute()


def drop_private(client: redis.Redis, worker: str) -> None:
    """rq's own list of all queues forgets those of a worker that is gone."""
    client.srem(Queue.redis_queues_keys, private_key(worker), clips_key(worker))
