"""The worker: loads and warms the model once, then takes jobs one after another in this one process."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace

import redis

from backend.fetching import videos
from backend.fetching.pictures import PictureStore
from backend.job import FUNCTION, VERSION
from backend.queueing import alarm, drain, heartbeat, versions
from backend.queueing.affinity import ENCODE_STAT, STEP_STAT, Affinity
from backend.queueing.connection import connect
from backend.queueing.fits import enqueue_fit
from backend.queueing.heartbeat import Heartbeat, WorkerStatus
from backend.queueing.queues import (
    BATCH,
    BULK,
    CLIPS,
    INTERACTIVE,
    LEARN,
    PRIVATE,
    TUNING,
    Execution,
    Job,
    Queue,
    fail,
    make_queue,
)
from backend.queueing.rq_worker import QueueWorker
from backend.settings import Settings
from backend.system import compiled
from backend.system.imports import uncollected
from backend.system.memory import Tidy
from backend.worker.ahead import look_ahead
from backend.worker.embedding_locks import EmbeddingLocks
from backend.worker.embeddings import Embeddings
from backend.worker.engine import Engine, expect, joins, make_resident, resident_stats
from backend.worker.fit_starter import FitStarter
from backend.worker.judges import Judges
from backend.worker.sitting import Sitting
from backend.worker.version_switch import VersionSwitch
from backend.worker.video_checkpoint import Checkpoints
from backend.worker.video_sessions import VideoSessions

log = logging.getLogger(__name__)

_OUTAGE_S = 30.0
_OVERRUN_S = 15
"""A job that ignores its limit for so long hangs in native code: the process is ended and started anew."""

_ENDING_S = 60
"""One that is to end and has no job in hand ends itself after so long, whatever it waits for."""

_AFTER_YOU_S = 0.05

_TOGETHER = (BATCH, BULK, LEARN)
_TOGETHER_MOST = 16
"""Jobs of these queues are computed in one step, so many at most."""


class ResidentWorker(QueueWorker):
    """Runs our function only, takes several jobs at once, and says which pictures it holds.

    Attributes:
        affinity: where it says so; None where nobody asks.
        held_s: how long it is believed.
        client: a connection of its own, for the heartbeat's thread.
        ending_since: by the monotonic clock; None as long as it goes on.
        encode_s: what encoding a picture costs it, a running mean in seconds; 0 before the first.
        step_s: it takes several jobs that nobody clicked for at once, as many as it believes to do in this time.
        job_s: what such a job costs it, a running mean in seconds; 0 before the first.
        busy_s: how long it is busy at a time, a running mean in seconds; 0 before the first.
        jobs, steps: how many it has done, and how many times it took some.
        tidy: gives memory back between jobs.
    """

    affinity: Affinity | None = None
    client: redis.Redis | None = None
    held_s = 0.0
    encode_s = 0.0
    step_s = 0.0
    job_s = 0.0
    busy_s = 0.0
    jobs = 0
    steps = 0
    tidy = Tidy()
    ending_since: float | None = None

    def execute_job(self, job: Job, queue: Queue) -> None:
        version = versions.version_of(job)
        if version != VERSION:
            self._decline(job, version)
            return
        begin = time.monotonic()
        begun = [(job, self.prepare_execution(job)), *self._companions(job, queue)]
        if len(begun) > 1:
            expect([one.args[0] for one, _ in begun])
        if queue.name in _TOGETHER:
            look_ahead(self, queue, [one.args[0] for one, _ in begun], _sociable)
        try:
            if queue in self._clicked() and joins() and _joins(job):
                begun = Sitting(self, self._clicked(), _joins).hold(job, begun[0][1], queue)
            else:
                self.perform_all(begun, queue)
            if queue.name in _TOGETHER:
                self.job_s = _mean(self.job_s, (time.monotonic() - begin) / len(begun))
        finally:
            self.busy_s = _mean(self.busy_s, time.monotonic() - begin)
            self.jobs, self.steps = self.jobs + len(begun), self.steps + 1
            if self.affinity is not None:
                pictures = [picture for one, _ in begun if (picture := self._held(one)) is not None]
                clicks = len(begun) if queue in self._clicked() else 0
                with _if_redis_is_there():
                    self.affinity.free(self.name, pictures, self.held_s, clicks)
            # between jobs, so that none waits for the heap in its midst
            self.tidy.look()

    def note_begin(self, pipeline: redis.client.Pipeline) -> None:
        if self.affinity is not None:
            self.affinity.busy(self.name, pipeline)

    def _companions(self, job: Job, queue: Queue) -> list[tuple[Job, Execution]]:
        """Jobs of the same queue that are taken and begun together with this one, unless a click waits."""
        if queue.name not in _TOGETHER or self.job_s == 0 or not _sociable(job):
            return []
        companions: list[tuple[Job, Execution]] = []
        most = min(_TOGETHER_MOST, int(self.step_s / self.job_s)) - 1
        while len(companions) < most and not any(other.count for other in self.queues[: self.queues.index(queue)]):
            other = self.take_another(queue)
            if other is None:
                break
            if not _sociable(other):
                queue.push_job_id(other.id, at_front=True)
                break
            companions.append((other, self.prepare_execution(other)))
        return companions

    def _clicked(self) -> list[Queue]:
        """The queues of clicks, those that this worker alone takes from first."""
        return [queue for queue in self.queues if queue.name.partition(":")[0] == INTERACTIVE]

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
        if not isinstance(reply, dict) or "error" in reply:
            return None
        if reply.get("clip"):
            # of a video that an annotator is at the file and its newest frames are at hand here
            return str(job.args[0]["picture"]) if job.args[0]["clip"].get("live") else None
        encode_s = float(reply.get("seconds", {}).get("encode", 0.0))
        if encode_s > 0:
            self.encode_s = _mean(self.encode_s, encode_s)
        return str(job.args[0].get("picture", ""))

    def _decline(self, job: Job, version: int | None) -> None:
        if version is None:
            # who can write to Redis must neither be able to call what he likes nor end the worker
            log.error("refused job %s: it does not ask for %s", job.id, FUNCTION)
            fail(job, "refused: not an allowed function")
            return
        log.warning("job %s has a payload of version %d, this worker knows %d: put back", job.id, version, VERSION)
        versions.put_back(self.connection, job, version, heartbeat.everybody(self.connection))
        time.sleep(_AFTER_YOU_S)  # so that another worker comes first

    def beat(self) -> None:
        """Called from the heartbeat's thread: ends a process that hangs, is orphaned, or was asked to end.

        What must be seen also while Redis is away comes first.
        """
        if alarm.overdue_s() > _OVERRUN_S:
            log.critical("the job hangs %d s beyond its limit: this worker ends itself", _OVERRUN_S)
            os._exit(70)
        if self.ending_since is not None:
            if not alarm.is_set() and time.monotonic() - self.ending_since > _ENDING_S:
                log.critical("worker %s has not ended in %d s: it does now", self.name, _ENDING_S)
                os._exit(70)
            return
        parent = os.environ.get("PALLAS_PARENT")
        if parent is not None and int(parent) != os.getppid():
            log.critical("the program that started this worker is gone: it ends too")
        elif self.client is not None and drain.wanted(self.client, self.name):
            log.info("worker %s was asked to end: it finishes its job first", self.name)
        else:
            return
        self.ending_since = time.monotonic()
        os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def _if_redis_is_there() -> Iterator[None]:
    """For what only helps others to choose: a worker does not end because it could not be said."""
    try:
        yield
    except redis.RedisError as error:
        log.warning("Redis does not answer (%s)", type(error).__name__)


def _mean(before: float, newest: float) -> float:
    """A running mean of seconds; 0 before the first."""
    return newest if before == 0 else 0.8 * before + 0.2 * newest


def _sociable(job: Job) -> bool:
    """Whether a job is ours and may be computed together with others."""
    return versions.version_of(job) == VERSION and not job.args[0].get("alone")


def _joins(job: Job) -> bool:
    """Whether a click may be computed beside others: videos take turns of their own."""
    return _sociable(job) and job.args[0].get("clip") is None


def run_worker(settings: Settings, name: str | None = None) -> int:
    """Load the model, then work until SIGTERM or Ctrl-C (a running job is finished first); the process's exit code.

    Raises:
        CheckpointError, DeviceError: the model cannot be loaded; the message says why.
        QueueDown: Redis does not answer.
    """
    client = connect(settings)
    # a result that is ready when Redis goes away is worth waiting for
    blocking = connect(settings, blocking=True, outage_s=_OUTAGE_S)
    name = name or f"pallas-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
    # parts of videos before what is new, so that few are in hand at once
    names = (f"{INTERACTIVE}:{name}", INTERACTIVE, f"{CLIPS}:{name}", BATCH, BULK, LEARN, TUNING)
    worker = ResidentWorker.on(names, name, blocking)
    worker.client = client
    worker.affinity, worker.held_s = Affinity(client), settings.picture_memory_s
    worker.step_s = settings.step_s
    videos.remove_dead()
    status = WorkerStatus(name, "loading", settings.model, pid=os.getpid(), host=socket.gethostname(), payload=VERSION)
    beats = Heartbeat(client, settings.heartbeat_s, settings.heartbeat_ttl_s, worker.beat, worker.stats)
    client.sadd(PRIVATE, name)
    beats.start(status)
    try:
        fits = FitStarter(settings, client)
        engine, device = _load(settings, client, blocking, name, fits)
        make_resident(engine)
        version = engine.model_version
        beats.publish(replace(status, state="ready", model_version=version, device=device))
        log.info("worker %s is ready: %s on %s", name, version, device)
        for run in fits.waiting():
            enqueue_fit(client, run, settings.job_timeout_s)
        worker.work(logging_level="WARNING")
        return 0
    finally:
        beats.stop()


def _load(
    settings: Settings, client: redis.Redis, blocking: redis.Redis, name: str, fits: FitStarter
) -> tuple[Engine, str]:
    compiled.keep_in(settings.state_dir / "compiled")
    with uncollected():
        from model import PerceiveAnything, share_cores

    threads = share_cores(settings.workers)
    begin = time.perf_counter()
    pam = PerceiveAnything.from_pretrained(
        *settings.checkpoint,
        compile=settings.compile,
        quantize=settings.quantize,
        resident=None if settings.resident else False,
    )
    locks = EmbeddingLocks(blocking, pam.version, settings.job_timeout_s)
    pictures = PictureStore(settings, client)
    waiting = [make_queue(queue, client) for queue in (f"{INTERACTIVE}:{name}", INTERACTIVE)]

    def wanted() -> bool:
        with _if_redis_is_there():
            return any(queue.count for queue in waiting)
        return False

    embeddings, judges = Embeddings(settings, pam, pictures, locks), Judges(client, pam.version)
    sessions = VideoSessions(settings, pam, pictures, wanted, Checkpoints(client), embeddings.cache, judges, name)
    versions = VersionSwitch(settings, client, pam)
    engine = Engine(settings, pam, embeddings, sessions, versions, fits, judges)
    engine.warm_up()
    seconds = time.perf_counter() - begin
    log.info("loaded and warmed %s in %.1f s, %d threads", pam.version, seconds, threads)
    return engine, str(pam.device)
