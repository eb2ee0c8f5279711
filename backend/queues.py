"""The queues: putting jobs in, waiting for their results without polling, and noticing lost ones."""

from __future__ import annotations

import logging
import threading
import time

import redis
from pydantic import ValidationError
from rq import Queue
from rq.executions import Execution
from rq.job import Job
from rq.results import Result
from rq.serializers import JSONSerializer

from backend import presence
from backend.errors import (
    BackendError,
    JobTimeout,
    ModelLoading,
    NoWorker,
    QueueFull,
    WorkerDied,
    WorkerError,
    from_wire,
)
from backend.job import FUNCTION, JobReply, JobRequest
from backend.redis_server import connect
from backend.settings import Settings

INTERACTIVE, BATCH, BULK = "interactive", "batch", "bulk"
STRICT_ORDER = (INTERACTIVE, BATCH, BULK)
"""A worker takes from a later queue only when all earlier ones are empty."""

_RESULT_TTL_S = 300
_FAILURE_TTL_S = 3600

log = logging.getLogger(__name__)


def make_queue(name: str, client: redis.Redis) -> Queue:
    """An rq queue whose payloads are JSON: unpickling what lies in Redis would run whoever can write there."""
    return Queue(name, connection=client, serializer=JSONSerializer)


class Dispatcher:
    """The front's side of the queues; safe to use from many threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.redis = connect(settings)
        self._waiting = connect(settings, patience_s=None)

    def run(self, request: JobRequest, queue: str = INTERACTIVE) -> JobReply:
        """Enqueue a job and wait for its reply; raises what `submit` and `collect` raise."""
        return self.collect(self.submit(request, queue), request)

    def submit(self, request: JobRequest, queue: str = INTERACTIVE) -> Job:
        """Enqueue a job.

        Raises:
            QueueFull, NoWorker; redis.RedisError where Redis is away.
        """
        if not self.workers():
            raise NoWorker(
                "no worker is running: start one with `python -m backend worker` (or `serve`), then try again"
            )
        waiting = make_queue(queue, self.redis)
        if waiting.count >= self._settings.max_waiting:
            raise QueueFull(f"{waiting.count} requests are waiting: try again in a moment, or start more workers")
        return waiting.enqueue_call(
            FUNCTION,
            args=(request.model_dump(mode="json"),),
            timeout=self._settings.job_timeout_s,
            result_ttl=_RESULT_TTL_S,
            failure_ttl=_FAILURE_TTL_S,
            # nobody waits for it any longer then
            ttl=self._settings.wait_s,
            # rq would describe the job by its arguments, and those may hold private addresses
            description=f"perceive {request.request_id}",
        )

    def collect(self, job: Job, request: JobRequest, wait_s: float | None = None) -> JobReply:
        """Wait for a job's reply, at most wait_s seconds (the settings' own by default).

        Raises:
            NoWorker, ModelLoading, WorkerDied, WorkerError, JobTimeout, or what the job itself found wrong with the
            picture or the prompts; redis.RedisError where Redis is away.
        """
        return self._unpack(self._wait(job, self._settings.wait_s if wait_s is None else wait_s), request)

    def depth(self) -> dict[str, int]:
        """Jobs waiting by queue."""
        return {name: make_queue(name, self.redis).count for name in STRICT_ORDER}

    def workers(self) -> list[presence.Sign]:
        """The workers that are alive."""
        return presence.everybody(self.redis)

    def model_version(self) -> str:
        """Of the model that the workers have loaded; before any ever did, the bare name of the settings."""
        try:
            return presence.published_version(self.redis) or self._settings.model
        except redis.RedisError:
            return self._settings.model

    def _wait(self, job: Job, seconds: float) -> Result:
        # fetched anew on a connection that may block, since the enqueuing one gives up after two seconds
        waiting = Job(job.id, connection=self._waiting, serializer=JSONSerializer)
        result = Result.fetch_latest(waiting, serializer=JSONSerializer, timeout=max(1, round(seconds)))
        if result is not None:
            return result
        signs = self.workers()
        still_queued = job.get_status() == "queued"
        if still_queued:
            job.cancel()
        if not signs:
            raise NoWorker("the last worker went away: start one with `python -m backend worker`, then try again")
        if all(sign.state == "loading" for sign in signs):
            raise ModelLoading("the model is still loading: try again in a moment")
        if still_queued:
            raise JobTimeout(f"its turn did not come within {seconds:.0f} s: try again later, or start more workers")
        raise JobTimeout(f"the job took longer than {seconds:.0f} s: try again, or use a faster device or model")

    def _unpack(self, result: Result, request: JobRequest) -> JobReply:
        if result.type is Result.Type.SUCCESSFUL:
            value = result.return_value
            if isinstance(value, dict) and "error" in value:
                raise from_wire(value["error"])
            try:
                return JobReply.model_validate(value)
            except ValidationError:
                log.error("request %s: a reply that this front does not understand", request.request_id)
                raise WorkerError("the worker answers in another format: run the same version everywhere") from None
        raise self._failure(result, request)

    def _failure(self, result: Result, request: JobRequest) -> BackendError:
        trace = result.exc_string or ""
        if "AbandonedJobError" in trace or "Work-horse terminated" in trace:
            return WorkerDied("the worker went away during the job: it is restarted, send the request again")
        if "JobTimeoutException" in trace:
            return JobTimeout(
                f"the job took longer than {self._settings.job_timeout_s} s: use a smaller picture, a faster device or "
                "model, or raise PALLAS_JOB_TIMEOUT_S"
            )
        log.error("request %s failed in the worker:\n%s", request.request_id, trace)
        return WorkerError(f"the worker failed on this request; its log says why under request {request.request_id}")


class Janitor:
    """Fails the jobs of workers that gave no sign of life, so that who waits for them learns it in seconds.

    rq itself looks every ten minutes.
    """

    def __init__(self, settings: Settings) -> None:
        self._redis = connect(settings)
        self._every_s = settings.heartbeat_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="janitor", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            try:
                for name in STRICT_ORDER:
                    make_queue(name, self._redis).started_job_registry.cleanup()
            except redis.RedisError as error:
                log.debug("janitor: Redis does not answer (%s)", type(error).__name__)
            except Exception:
                log.exception("janitor failed")


def abandon(client: redis.Redis, worker: str) -> int:
    """Fail the running jobs of a worker that is known to have ended; returns how many there were."""
    presence.forget(client, worker)
    count = 0
    for name in STRICT_ORDER:
        registry = make_queue(name, client).started_job_registry
        for job_id, execution_id in registry.get_job_and_execution_ids(cleanup=False):
            try:
                execution = Execution.fetch(execution_id, job_id, client)
            except ValueError:
                continue
            if execution.worker_name == worker:
                # expired a while ago: the registry's own clean-up then fails the job and wakes who waits for it
                client.zadd(registry.key, {execution.composite_key: time.time() - 1}, xx=True)
                count += 1
        registry.cleanup()
    return count
