"""The asking side of the queues: putting jobs in, waiting for their results without polling, and noticing lost ones."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable

import redis
from pydantic import ValidationError

from backend import logs
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
from backend.job import FUNCTION, VERSION, JobReply, JobRequest
from backend.queueing import heartbeat
from backend.queueing.affinity import Affinity, patience_s
from backend.queueing.connection import connect
from backend.queueing.queues import (
    INTERACTIVE,
    STRICT_ORDER,
    Failure,
    Job,
    Queue,
    Result,
    clips_key,
    drop,
    enqueue,
    failure,
    find,
    forget,
    job_key,
    make_queue,
    private_key,
    results,
    take_back,
)
from backend.settings import Settings

log = logging.getLogger(__name__)

_RESULT_TTL_S = 300
_SHARED_RESULT_TTL_S = 3600
_FAILURE_TTL_S = 3600
_WINDOW = 8  # tasks in the queues for each worker


class Dispatcher:
    """The front's side of the queues; safe to use from many threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.redis = connect(settings)
        self._waiting = connect(settings, blocking=True)
        self._looking = connect(settings, soon=True)
        self._affinity = Affinity(self.redis)

    def run(self, request: JobRequest) -> JobReply:
        """Enqueue a click and wait for its reply; raises what `submit` and `collect` raise.

        The worker that holds the picture is asked first, but not waited for longer than encoding it anew would take.
        """
        workers = self._room(INTERACTIVE)
        warm = self._affinity.choose(request.picture, workers)
        if warm is None:
            return self.collect(self._enqueue(make_queue(INTERACTIVE, self.redis), request), request)
        job = self._enqueue(make_queue(INTERACTIVE, self.redis, private_key(warm.name)), request)
        if not self.results([job.id], patience_s(warm)) and self.redis.lrem(private_key(warm.name), 1, job.id):
            make_queue(INTERACTIVE, self.redis).push_job_id(job.id, at_front=True)
        return self.collect(job, request)

    def submit(self, request: JobRequest, queue: str = INTERACTIVE, worker: str = "") -> Job:
        """Enqueue a job; with a worker (`holder`), that one alone takes it, as long as it is alive.

        Raises:
            QueueFull, NoWorker; redis.RedisError where Redis is away.
        """
        return self._enqueue(self._open(queue, worker, clips_key), request)

    def submit_once(self, request: JobRequest, queue: str, worker: str = "", click: bool = False) -> str:
        """Enqueue a job, unless the same question is in work or was answered not long ago; the job's id.

        With a worker (`holder`), that one alone takes it, as long as it is alive, and a click before all others.
        Whoever asks gets the result by that id, and it stays for an hour; but an error is no answer, and who asks after
        one asks anew. Raises what `submit` raises.
        """
        job_id = _digest(request, self.model_version())
        if (job := find(self.redis, job_id)) is not None:
            if job.get_status(refresh=False) in ("queued", "started") or self._is_answered(job_id):
                return job_id
            drop(job)
        self._enqueue(self._open(queue, worker, private_key if click else clips_key), request, job_id)
        return job_id

    def _open(self, queue: str, worker: str, own: Callable[[str], str]) -> Queue:
        """Where a job is put, if there is room: the worker's `own` queue as long as it is alive, else everybody's."""
        known = any(one.name == worker for one in self._room(queue))
        return make_queue(queue, self.redis, own(worker) if known else None)

    def holder(self, picture: str) -> str:
        """The worker that a picture or a video is at hand on, if it is likely to come to it first; else empty."""
        warm = self._affinity.choose(picture, self.workers())
        return "" if warm is None else warm.name

    def _is_answered(self, job_id: str) -> bool:
        result = results(self.redis, [job_id], 0).get(job_id)
        if result is None or failure(result) is not None:
            return False
        return not (isinstance(result.return_value, dict) and "error" in result.return_value)

    def withdraw(self, job_id: str) -> None:
        """Forget a job of `submit_once` and its result: nobody wants it any longer."""
        forget(self.redis, job_id)

    def missing(self, job_ids: Iterable[str]) -> list[str]:
        """Those of the jobs that Redis has nothing of."""
        ids = list(job_ids)
        pipe = self.redis.pipeline(transaction=False)
        for job_id in ids:
            pipe.exists(job_key(job_id))
        return [job_id for job_id, there in zip(ids, pipe.execute(), strict=True) if not there]

    def _room(self, queue: str) -> list[heartbeat.WorkerStatus]:
        workers = self.workers()
        if not workers:
            raise NoWorker(
                "no worker is running: start one with `python -m backend worker` (or `serve`), then try again"
            )
        workers = [worker for worker in workers if worker.payload == VERSION]
        if not workers:
            raise NoWorker(
                "the workers that run are of another version of Pallas than the front: run the same one everywhere"
            )
        waiting = make_queue(queue, self.redis).count
        if waiting >= self._settings.max_waiting:
            raise QueueFull(f"{waiting} requests are waiting: try again in a moment, or start more workers")
        return workers

    def _enqueue(self, queue: Queue, request: JobRequest, job_id: str | None = None) -> Job:
        shared = job_id is not None
        return enqueue(
            queue,
            FUNCTION,
            request.model_dump(mode="json"),
            f"perceive {request.request_id}",
            limit_s=self._settings.job_timeout_s,
            result_s=_SHARED_RESULT_TTL_S if shared else _RESULT_TTL_S,
            failure_s=_FAILURE_TTL_S,
            # nobody waits for it any longer then
            waits_s=None if shared else self._settings.wait_s,
            job_id=job_id,
        )

    def collect(self, job: Job, request: JobRequest, wait_s: float | None = None) -> JobReply:
        """Wait for a job's reply, at most wait_s seconds (the settings' own by default).

        Raises:
            NoWorker, ModelLoading, WorkerDied, WorkerError, JobTimeout, or what the job itself found wrong with the
            picture or the prompts; redis.RedisError where Redis is away.
        """
        return self.unpack(self._wait(job, self._settings.wait_s if wait_s is None else wait_s), request)

    def depth(self) -> dict[str, int]:
        """Jobs waiting by queue."""
        return {name: make_queue(name, self.redis).count for name in STRICT_ORDER}

    def window(self) -> int:
        """How many tasks one program may have in the queues: enough that no worker waits for the next."""
        ready = sum(worker.state == "ready" for worker in self.workers())
        return min(_WINDOW * max(1, ready), self._settings.max_waiting)

    def workers(self) -> list[heartbeat.WorkerStatus]:
        """The workers that are alive."""
        return heartbeat.everybody(self.redis)

    def look(self) -> tuple[str, list[heartbeat.WorkerStatus]]:
        """The model's version and the workers, or that Redis is away, within a second. Raises redis.RedisError."""
        workers = heartbeat.everybody(self._looking)
        return heartbeat.published_version(self._looking) or self._settings.model, workers

    def model_version(self) -> str:
        """Of the model that the workers have loaded; before any ever did, the bare name of the settings."""
        try:
            return heartbeat.published_version(self.redis) or self._settings.model
        except redis.RedisError:
            return self._settings.model

    def results(self, job_ids: Iterable[str], seconds: float) -> dict[str, Result]:
        """Wait until one of the jobs has a result; those that are there by then, none after so many seconds."""
        return results(self._waiting, job_ids, seconds)

    def _wait(self, job: Job, seconds: float) -> Result:
        result = self.results([job.id], seconds).get(job.id)
        if result is not None:
            return result
        workers = self.workers()
        still_queued = take_back(job)
        if not workers:
            raise NoWorker("the last worker went away: start one with `python -m backend worker`, then try again")
        if all(worker.state == "loading" for worker in workers):
            raise ModelLoading("the model is still loading: try again in a moment")
        if still_queued:
            raise JobTimeout(f"its turn did not come within {seconds:.0f} s: try again later, or start more workers")
        raise JobTimeout(f"the job took longer than {seconds:.0f} s: try again, or use a faster device or model")

    def unpack(self, result: Result, request: JobRequest) -> JobReply:
        """The reply in a result; raises what `collect` raises but NoWorker and ModelLoading."""
        if failure(result) is not None:
            raise self._failure(result, request)
        value = result.return_value
        if isinstance(value, dict) and "error" in value:
            raise from_wire(value["error"])
        try:
            return JobReply.model_validate(value)
        except ValidationError:
            with logs.of_request(request.request_id):
                log.error("a reply that this front does not understand")
            raise WorkerError("the worker answers in another format: run the same version everywhere") from None

    def _failure(self, result: Result, request: JobRequest) -> BackendError:
        why = failure(result)
        if why is Failure.LOST:
            return WorkerDied("the worker went away during the job: it is restarted, send the request again")
        if why is Failure.OVERRAN:
            return JobTimeout(
                f"the job took longer than {self._settings.job_timeout_s} s: use a smaller picture, a faster device or "
                "model, or raise PALLAS_JOB_TIMEOUT_S"
            )
        with logs.of_request(request.request_id):
            log.error("failed in the worker:\n%s", result.exc_string)
        return WorkerError(f"the worker failed on this request; its log says why under request {request.request_id}")


def _digest(request: JobRequest, model_version: str) -> str:
    """Of what is asked and of whom; who asks and when does not matter."""
    asked = request.model_dump(mode="json", exclude={"request_id", "sent_at"})
    text = json.dumps([asked, model_version], sort_keys=True)
    return f"once-{hashlib.sha256(text.encode()).hexdigest()[:40]}"
