"""The worker: loads and warms the model once, then takes jobs one after another in this one process."""

from __future__ import annotations

import hashlib
import logging
import math
import os
import signal
import socket
import time
import uuid
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import redis
from rq import SimpleWorker
from rq.executions import Execution
from rq.job import Job
from rq.queue import Queue
from rq.serializers import JSONSerializer
from rq.timeouts import JobTimeoutException

from backend.errors import BackendError, BadRequest, from_model
from backend.job import FUNCTION, VERSION, JobReply, JobRequest, RegionPrompt, RegionReply, TextReply
from backend.pictures import PictureStore
from backend.presence import Heart, Sign
from backend.queues import STRICT_ORDER, make_queue
from backend.redis_server import connect
from backend.settings import Settings

if TYPE_CHECKING:
    from model import Embedding, PerceiveAnything, Prompt

log = logging.getLogger(__name__)

_OVERRUN_S = 15
"""A job that ignores its limit for so long hangs in native code: the process is ended and started anew."""

_resident: Engine | None = None
"""The engine of this process: rq calls `perform` by name, so the function must find it here."""


def perform(payload: dict[str, Any]) -> dict[str, Any]:
    """The job function: a JobRequest as JSON in, a JobReply or {"error": ...} as JSON out."""
    assert _resident is not None, "this function runs inside a Pallas worker only"
    return _resident.answer(payload)


class EmbeddingShelf:
    """The most recently used embeddings by the picture's content, bounded in bytes."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._kept: OrderedDict[str, Embedding] = OrderedDict()
        self.nbytes = 0

    def get(self, key: str) -> Embedding | None:
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key]

    def put(self, key: str, embedding: Embedding) -> None:
        if embedding.nbytes > self._limit or key in self._kept:
            return
        self._kept[key] = embedding
        self.nbytes += embedding.nbytes
        while self.nbytes > self._limit:
            _, oldest = self._kept.popitem(last=False)
            self.nbytes -= oldest.nbytes

    def __len__(self) -> int:
        return len(self._kept)


class Engine:
    """Answers jobs with a loaded model."""

    def __init__(self, settings: Settings, pam: PerceiveAnything, pictures: PictureStore) -> None:
        self._settings = settings
        self._pam = pam
        self._pictures = pictures
        self._shelf = EmbeddingShelf(settings.embedding_cache_bytes)

    @property
    def model_version(self) -> str:
        return self._pam.version

    def warm_up(self) -> None:
        """Run the whole path once, so that the first click does not pay for lazy initialisation."""
        from PIL import Image

        from model import Prompt, Task

        self._pam.perceive(
            Image.new("RGB", (64, 64), "gray"), [Prompt(points=[(32, 32, 1)])], [Task.BRIEF], "en", 0.0, 2
        )

    def answer(self, payload: dict[str, Any]) -> dict[str, Any]:
        """The reply, or the error that the request caused; other faults are raised and rq records them."""
        try:
            if payload.get("version") != VERSION:
                raise BadRequest("a job of another version of Pallas: run the same version everywhere")
            request = JobRequest.model_validate(payload)
            return self._perceive(request).model_dump(mode="json")
        except BackendError as error:
            return {"error": error.to_wire()}
        except JobTimeoutException:
            raise
        except Exception as error:
            known = from_model(error)
            if known is None:
                raise
            return {"error": known.to_wire()}

    def _perceive(self, request: JobRequest) -> JobReply:
        from model import open_picture

        seconds = {"queue": max(0.0, time.time() - request.sent_at)}
        begin = time.perf_counter()
        data = self._pictures.read(request.picture)
        key = hashlib.sha256(data).hexdigest()
        embedding = self._shelf.get(key)
        cached = embedding is not None
        if embedding is None:
            image = open_picture(data, self._settings.max_picture_pixels)
            seconds["fetch"] = time.perf_counter() - begin
            begin = time.perf_counter()
            embedding = self._pam.encode(image)
            self._shelf.put(key, embedding)
            seconds["encode"] = time.perf_counter() - begin
        else:
            seconds["fetch"], seconds["encode"] = time.perf_counter() - begin, 0.0
        prompts = [to_pixels(prompt, embedding.width, embedding.height) for prompt in request.prompts]
        found = self._pam.perceive(
            embedding, prompts, request.tasks, request.language, max_new_tokens=request.max_new_tokens
        )
        seconds["segment"], seconds["describe"] = found.seconds["segment"], found.seconds["describe"]
        return JobReply(
            width=embedding.width,
            height=embedding.height,
            regions=tuple(_reply(region, texts) for region, texts in found),
            seconds=seconds,
            model_version=self.model_version,
            cached=cached,
        )


def to_pixels(prompt: RegionPrompt, width: int, height: int) -> Prompt:
    """A prompt in percentages → pixels of a picture of that size."""
    from model import Prompt

    points = [(p.x / 100 * width, p.y / 100 * height, int(p.positive)) for p in prompt.points]
    box = None
    if prompt.box is not None:
        x1, y1, x2, y2 = prompt.box
        box = (x1 / 100 * width, y1 / 100 * height, x2 / 100 * width, y2 / 100 * height)
    return Prompt(points=points or None, box=box)


def _reply(region: Any, texts: Any) -> RegionReply:
    from model.mask import to_coco_rle

    return RegionReply(
        mask=to_coco_rle(region.mask),
        area=region.area,
        iou=min(max(region.iou, 0.0), 1.0),
        object_score=region.object_score,
        texts={
            task: TextReply(string=text.string, score=min(1.0, math.exp(text.mean_logprob)))
            for task, text in texts.items()
        },
    )


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
    global _resident
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
    heart = Heart(client, settings.heartbeat_s, settings.heartbeat_ttl_s, worker.beat)
    heart.start(sign)
    try:
        engine, device = _load(settings, client)
        _resident = engine
        version = engine.model_version
        heart.say(Sign(name, "ready", settings.model, version, device, os.getpid(), socket.gethostname()))
        log.info("worker %s is ready: %s on %s", name, version, device)
        worker.work(logging_level="WARNING")
        return 0
    finally:
        heart.stop()


def _load(settings: Settings, client: redis.Redis) -> tuple[Engine, str]:
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
