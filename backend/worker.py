"""The worker: loads and warms the model once, then takes jobs one after another in this one process."""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
import uuid

import redis
from rq import SimpleWorker
from rq.executions import Execution
from rq.job import Job
from rq.queue import Queue
from rq.serializers import JSONSerializer

from backend.engine import Engine, make_resident, resident_stats
from backend.imports import uncollected
from backend.job import FUNCTION
from backend.pictures import PictureStore
from backend.presence import Heart, Sign
from backend.queues import STRICT_ORDER, make_queue
from backend.redis_server import connect
from backend.settings import Settings

log = logging.getLogger(__name__)

_OVERRUN_S = 15
"""A job that ignores its limit for so long hangs in native code: the process is ended and started anew."""


class ResidentWorker(SimpleWorker):
    """An rq worker that does not fork, keeps its jobs' heartbeats going while they run, and runs our function only."""

    heartbeat_ttl_s = 10
    job_started: float | None = None
    job_limit_s = 0.0
    # after an outage the next try comes within seconds, not after a minute
    max_connection_wait_time = 2.0

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:
        # rq's SimpleWorker sends no heartbeat during a job and so asks for the job's whole limit in advance
        return self.heartbeat_ttl_s

    def execute_job(self, job: Job, queue: Queue) -> None:
        self.job_limit_s = float(job.timeout or 0)
        self.job_started = time.monotonic()
        try:
            super().execute_job(job, queue)
        finally:
            self.job_started = None

    def perform_job(self, job: Job, queue: Queue, execution: Execution) -> bool:
        if job.func_name != FUNCTION:
            # who can write to Redis must not be able to call what he likes
            log.error("refused job %s: it asks for another function than %s", job.id, FUNCTION)
            self.handle_job_failure(job, queue, exc_string="refused: not an allowed function", execution=execution)
            return False
        return super().perform_job(job, queue, execution)

    def beat(self) -> None:
        """Called from the heart's thread: keeps a running job alive, ends a hanging or orphaned process."""
        parent = os.environ.get("PALLAS_PARENT")
        if parent is not None and int(parent) != os.getppid():
            log.critical("the program that started this worker is gone: it ends too")
            os.kill(os.getpid(), signal.SIGTERM)
        started = self.job_started
        if started is None:
            return
        if self.job_limit_s and time.monotonic() - started > self.job_limit_s + _OVERRUN_S:
            log.critical("the job hangs %d s beyond its limit: this worker ends itself", _OVERRUN_S)
            os._exit(70)
        for execution in list(self.executions.values()):
            job = execution.job
            if job is not None:
                self.maintain_heartbeats(job, execution)


def run_worker(settings: Settings, name: str | None = None) -> int:
    """Load the model, then work until SIGTERM or Ctrl-C (a running job is finished first); the process's exit code.

    Raises:
        CheckpointError, DeviceError: the model cannot be loaded; the message says why.
        QueueDown: Redis does not answer.
    """
    client = connect(settings)
    blocking = connect(settings, patience_s=None)
    name = name or f"pallas-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
    worker = ResidentWorker(
        [make_queue(queue, blocking) for queue in STRICT_ORDER],
        name=name,
        connection=blocking,
        serializer=JSONSerializer,
        worker_ttl=20,
        log_job_description=False,
    )
    worker.heartbeat_ttl_s = settings.heartbeat_ttl_s
    sign = Sign(name, "loading", settings.model, pid=os.getpid(), host=socket.gethostname())
    heart = Heart(client, settings.heartbeat_s, settings.heartbeat_ttl_s, worker.beat, resident_stats)
    heart.start(sign)
    try:
        engine, device = _load(settings, client)
        make_resident(engine)
        version = engine.model_version
        heart.say(Sign(name, "ready", settings.model, version, device, os.getpid(), socket.gethostname()))
        log.info("worker %s is ready: %s on %s", name, version, device)
        worker.work(logging_level="WARNING")
        return 0
    finally:
        heart.stop()


def _load(settings: Settings, client: redis.Redis) -> tuple[Engine, str]:
    with uncollected():
        import torch

        from model import PerceiveAnything

    if settings.workers > 1:
        # N workers on M cores: more threads than cores make all of them slower
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // settings.workers))
    begin = time.perf_counter()
    pam = PerceiveAnything.from_pretrained(
        settings.model, settings.sam2_checkpoint, settings.sam2_config, settings.device, settings.dtype
    )
    engine = Engine(settings, pam, PictureStore(settings, client))
    engine.warm_up()
    log.info("loaded and warmed %s in %.1f s", pam.version, time.perf_counter() - begin)
    return engine, str(pam.device)
