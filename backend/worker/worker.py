"""The worker: loads and warms the model once, then takes jobs one after another in this one process."""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
import uuid
from dataclasses import replace

import redis
from rq import SimpleWorker, worker_registration
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.job_lifecycle import record_job_failure
from rq.queue import Queue
from rq.serializers import JSONSerializer
from rq.utils import now

from backend.fetching.pictures import PictureStore
from backend.job import FUNCTION, VERSION
from backend.queueing import drain, heartbeat, versions
from backend.queueing.affinity import ENCODE_STAT, STEP_STAT, Affinity
from backend.queueing.connection import connect
from backend.queueing.heartbeat import Heartbeat, WorkerStatus
from backend.queueing.queues import BATCH, BULK, CLIPS, INTERACTIVE, PRIVATE, make_queue
from backend.settings import Settings
from backend.system.imports import uncollected
from backend.system.memory import Tidy
from backend.worker.embedding_locks import EmbeddingLocks
from backend.worker.embeddings import Embeddings
from backend.worker.engine import Engine, expect, make_resident, resident_stats
from backend.worker.video_checkpoint import Checkpoints
from backend.worker.video_sessions import VideoSessions

log = logging.getLogger(__name__)

_OUTAGE_S = 30.0
_OVERRUN_S = 15
"""A job that ignores its limit for so long hangs in native code: the process is ended and started anew."""


_AFTER_YOU_S = 0.05

_TOGETHER = (BATCH, BULK)
_TOGETHER_MOST = 16
"""Jobs of these queues are computed in one step, so many at most."""

_REGISTERED_S = 86_400
"""How long rq's registry believes that a job runs: whether its worker lives, the janitor knows better."""


class ResidentWorker(SimpleWorker):
    """An rq worker that does not fork, runs our function only, and says which pictures it holds.

    Attributes:
        affinity: where it says so; None where nobody asks.
        held_s: how long it is believed.
        client: a connection of its own, for the heartbeat's thread.
        draining: it was asked to end.
        encode_s: what encoding a picture costs it, a running mean in seconds; 0 before the first.
        step_s: it takes several jobs that nobody clicked for at once, as many as it believes to do in this time.
        job_s: what such a job costs it, a running mean in seconds; 0 before the first.
        busy_s: how long it is busy at a time, a running mean in seconds; 0 before the first.
        jobs, steps: how many it has done, and how many times it took some.
        tidy: gives memory back between jobs.
    """

    affinity: Affinity | None = None
    client: redis.Redis | None = None
    draining = False
    held_s = 0.0
    encode_s = 0.0
    step_s = 0.0
    job_s = 0.0
    busy_s = 0.0
    jobs = 0
    steps = 0
    tidy = Tidy()
    job_started: float | None = None
    job_limit_s = 0.0
    # after an outage the next try comes within seconds, not after a minute
    max_connection_wait_time = 2.0

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

    def execute_job(self, job: Job, queue: Queue) -> None:
        version = versions.version_of(job)
        if version != VERSION:
            self._decline(job, version)
            return
        self.job_limit_s = float(job.timeout or 0)
        self.job_started = time.monotonic()
        if self.affinity is not None:
            self.affinity.busy(self.name)
        others = self._companions(job, queue)
        if others:
            expect([one.args[0] for one in (job, *(other for other, _ in others))])
        try:
            super().execute_job(job, queue)
            for other, execution in others:
                self.perform_job(other, queue, execution)
            if queue.name in _TOGETHER:
                self.job_s = _mean(self.job_s, (time.monotonic() - self.job_started) / (1 + len(others)))
        finally:
            self.busy_s = _mean(self.busy_s, time.monotonic() - self.job_started)
            self.job_started = None
            self.jobs, self.steps = self.jobs + 1 + len(others), self.steps + 1
            if self.affinity is not None:
                held = [self._held(one) for one in (job, *(other for other, _ in others))]
                pictures = [picture for picture in held if picture is not None]
                self.affinity.free(self.name, pictures, self.held_s, click=job.origin == INTERACTIVE)
            # between jobs, so that none waits for the heap in its midst
            self.tidy.look()

    def _companions(self, job: Job, queue: Queue) -> list[tuple[Job, Execution]]:
        """Jobs of the same queue that are taken and begun together with this one, unless a click waits."""
        if queue.name not in _TOGETHER or self.job_s == 0 or not _sociable(job):
            return []
        companions: list[tuple[Job, Execution]] = []
        most = min(_TOGETHER_MOST, int(self.step_s / self.job_s)) - 1
        while len(companions) < most and not any(other.count for other in self.queues[: self.queues.index(queue)]):
            taken = Queue.lpop([queue.key], None, connection=self.connection)
            if taken is None:
                break
            other = queue.fetch_job(taken[1].decode())
            if other is None or other.get_status(refresh=False) != JobStatus.QUEUED:
                continue  # withdrawn, or its time is over
            if not _sociable(other):
                queue.push_job_id(other.id, at_front=True)
                break
            companions.append((other, self.prepare_execution(other)))
            # from here on it counts as running: if this worker dies, it is failed, not put back to kill the next
            other.set_status(JobStatus.STARTED)
        return companions

    def stats(self) -> dict[str, float]:
        """For its status."""
        return resident_stats() | {
            ENCODE_STAT: self.encode_s,
            STEP_STAT: self.busy_s,
            "jobs": self.jobs,
            "steps": self.steps,
        }

    def _held(self, job: Job) -> str | None:
        """The picture of a job that has just ended well."""
        reply = getattr(job, "_result", None)  # as rq keeps it after a job; None or missing after a failure
        if not isinstance(reply, dict) or "error" in reply or reply.get("clip"):
            return None
        encode_s = float(reply.get("seconds", {}).get("encode", 0.0))
        if encode_s > 0:
            self.encode_s = _mean(self.encode_s, encode_s)
        return str(job.args[0].get("picture", ""))

    def _decline(self, job: Job, version: int | None) -> None:
        if version is None:
            # who can write to Redis must neither be able to call what he likes nor end the worker
            log.error("refused job %s: it does not ask for %s", job.id, FUNCTION)
            with self.connection.pipeline() as pipe:
                record_job_failure(job, "refused: not an allowed function", pipe)
                pipe.execute()
            return
        log.warning("job %s has a payload of version %d, this worker knows %d: put back", job.id, version, VERSION)
        versions.put_back(self.connection, job, version, heartbeat.everybody(self.connection))
        # so that another worker comes first
        time.sleep(_AFTER_YOU_S)

    def beat(self) -> None:
        """Called from the heartbeat's thread: ends a process that hangs, is orphaned, or was asked to end."""
        parent = os.environ.get("PALLAS_PARENT")
        if parent is not None and int(parent) != os.getppid():
            log.critical("the program that started this worker is gone: it ends too")
            os.kill(os.getpid(), signal.SIGTERM)
        if self.client is not None and not self.draining and drain.wanted(self.client, self.name):
            self.draining = True
            log.info("worker %s was asked to end: it finishes its job first", self.name)
            os.kill(os.getpid(), signal.SIGTERM)
        started = self.job_started
        if started is not None and self.job_limit_s and time.monotonic() - started > self.job_limit_s + _OVERRUN_S:
            log.critical("the job hangs %d s beyond its limit: this worker ends itself", _OVERRUN_S)
            os._exit(70)


def _mean(before: float, newest: float) -> float:
    """A running mean of seconds; 0 before the first."""
    return newest if before == 0 else 0.8 * before + 0.2 * newest


def _sociable(job: Job) -> bool:
    """Whether a job is ours and may be computed together with others."""
    return versions.version_of(job) == VERSION and not job.args[0].get("alone")


def run_worker(settings: Settings, name: str | None = None) -> int:
    """Load the model, then work until SIGTERM or Ctrl-C (a running job is finished first); the process's exit code.

    Raises:
        CheckpointError, DeviceError: the model cannot be loaded; the message says why.
        QueueDown: Redis does not answer.
    """
    client = connect(settings)
    # a result that is ready when Redis goes away is worth waiting for
    blocking = connect(settings, patience_s=None, outage_s=_OUTAGE_S)
    name = name or f"pallas-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
    worker = ResidentWorker(
        # parts of videos before what is new, so that few are in hand at once
        [make_queue(q, blocking) for q in (f"{INTERACTIVE}:{name}", INTERACTIVE, f"{CLIPS}:{name}", BATCH, BULK)],
        name=name,
        connection=blocking,
        serializer=JSONSerializer,
        worker_ttl=20,
        log_job_description=False,
    )
    worker.client = client
    worker.affinity, worker.held_s = Affinity(client), settings.picture_memory_s
    worker.step_s = settings.step_s
    status = WorkerStatus(name, "loading", settings.model, pid=os.getpid(), host=socket.gethostname(), payload=VERSION)
    beats = Heartbeat(client, settings.heartbeat_s, settings.heartbeat_ttl_s, worker.beat, worker.stats)
    client.sadd(PRIVATE, name)
    beats.start(status)
    try:
        engine, device = _load(settings, client, blocking, name)
        make_resident(engine)
        version = engine.model_version
        beats.publish(replace(status, state="ready", model_version=version, device=device))
        log.info("worker %s is ready: %s on %s", name, version, device)
        worker.work(logging_level="WARNING")
        return 0
    finally:
        beats.stop()


def _load(settings: Settings, client: redis.Redis, blocking: redis.Redis, name: str) -> tuple[Engine, str]:
    with uncollected():
        from model import PerceiveAnything, share_cores

    threads = share_cores(settings.workers)
    begin = time.perf_counter()
    pam = PerceiveAnything.from_pretrained(
        settings.model,
        settings.sam2_checkpoint,
        settings.sam2_config,
        settings.device,
        settings.dtype,
        settings.compile,
        settings.quantize,
    )
    locks = EmbeddingLocks(blocking, pam.version, settings.job_timeout_s)
    pictures = PictureStore(settings, client)
    waiting = [make_queue(queue, client) for queue in (f"{INTERACTIVE}:{name}", INTERACTIVE)]
    videos = VideoSessions(
        settings, pam, pictures, lambda: any(queue.count for queue in waiting), Checkpoints(client), name
    )
    engine = Engine(settings, pam, Embeddings(settings, pam, pictures, locks), videos)
    engine.warm_up()
    seconds = time.perf_counter() - begin
    log.info("loaded and warmed %s in %.1f s, %d threads", pam.version, seconds, threads)
    return engine, str(pam.device)
