"""Jobs that a lost worker leaves behind: failed, or put back into their queue, within seconds.

rq itself looks every ten minutes, by the clocks of whoever looks. Here only heartbeats count, which expire in Redis;
and what looks lost must look so twice, so that neither a jump of a clock nor an unlucky moment costs a job.
"""

from __future__ import annotations

import logging
import math
import threading
import uuid

import redis
from rq.exceptions import NoSuchJobError
from rq.executions import Execution
from rq.job import Job
from rq.job_lifecycle import record_job_failure
from rq.registry import StartedJobRegistry
from rq.serializers import JSONSerializer

from backend.queueing import affinity, heartbeat, versions
from backend.queueing.connection import connect
from backend.queueing.queues import BULK, JOBS, PRIVATE, STRICT_ORDER, clips_key, make_queue, private_key
from backend.settings import Settings
from backend.system.memory import Tidy

_LEASE = "pallas:janitor"
_AT_ONCE = 1
"""As an expiry time in rq's registry, which holds seconds since 1970: long past by any clock."""

log = logging.getLogger(__name__)


class Janitor:
    """Looks after the jobs of all workers from a thread; of several in a fleet one is at work at a time."""

    def __init__(self, settings: Settings) -> None:
        self._redis = connect(settings)
        self._every_s = settings.heartbeat_s
        self._me = uuid.uuid4().hex
        self._suspects: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="janitor", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def look(self) -> None:
        """Look once; what was suspect already in the look before is lost."""
        if not self._is_mine():
            self._suspects = set()
            return
        workers = heartbeat.everybody(self._redis)
        versions.release(self._redis, workers)
        alive = {worker.name for worker in workers}
        self._suspects = self._silent(alive) | self._deserted(alive) | self._astray(alive)

    def _is_mine(self) -> bool:
        lease_ms = math.ceil(3000 * self._every_s)
        if not self._redis.set(_LEASE, self._me, nx=True, px=lease_ms):
            holder = self._redis.get(_LEASE)
            if holder != self._me.encode():
                return False
            self._redis.pexpire(_LEASE, lease_ms)
        return True

    def _silent(self, alive: set[str]) -> set[str]:
        """Running jobs whose worker has no heartbeat: failed, so that who waits for them learns it."""
        suspects = set()
        for name in STRICT_ORDER:
            registry = make_queue(name, self._redis).started_job_registry
            silent = [key for key, worker in _executions(self._redis, registry) if worker not in alive]
            lost = [key for key in silent if key in self._suspects]
            if lost:
                log.error("%d jobs were lost with their workers", len(lost))
                _fail(self._redis, registry, lost)
            suspects |= set(silent) - set(lost)
        return suspects

    def _deserted(self, alive: set[str]) -> set[str]:
        """Workers that are gone and had a queue of their own: what waits there goes to everybody."""
        names = heartbeat.members(self._redis, PRIVATE) - alive
        for name in names & self._suspects:
            release(self._redis, name)
        return names - self._suspects

    def _astray(self, alive: set[str]) -> set[str]:
        """Jobs that are said to wait but lie in no queue: their worker died between taking and starting them."""
        ids = sorted(heartbeat.members(self._redis, JOBS))
        if not ids:
            return set()
        pipe = self._redis.pipeline(transaction=False)
        for job_id in ids:
            pipe.hget(Job.key_for(job_id), "status")
        status = dict(zip(ids, pipe.execute(), strict=True))
        over = [job_id for job_id, state in status.items() if state not in (b"queued", b"started", None)]
        if over:
            self._redis.srem(JOBS, *over)
        # looked at after the status: a job that is started in between is seen as waiting, and only once
        there = self._whereabouts(alive)
        suspects = {job_id for job_id, state in status.items() if job_id not in over and job_id not in there}
        for job_id in suspects & self._suspects:
            self._put_back(job_id)
        return suspects - self._suspects

    def _whereabouts(self, alive: set[str]) -> set[str]:
        """Ids of all jobs in a queue, running, or put aside."""
        queues = [make_queue(name, self._redis) for name in STRICT_ORDER]
        pipe = self._redis.pipeline(transaction=False)
        for key in (*(queue.key for queue in queues), *map(private_key, alive), *map(clips_key, alive)):
            pipe.lrange(key, 0, -1)
        waiting = {job_id.decode() for found in pipe.execute() for job_id in found}
        running = {
            job_id
            for queue in queues
            for job_id, _ in queue.started_job_registry.get_job_and_execution_ids(cleanup=False)
        }
        return waiting | running | versions.ids(self._redis)

    def _put_back(self, job_id: str) -> None:
        try:
            job = Job.fetch(job_id, connection=self._redis, serializer=JSONSerializer)
        except NoSuchJobError:
            self._redis.srem(JOBS, job_id)
            return
        if job.get_status(refresh=False) == "started":
            with self._redis.pipeline() as pipe:
                record_job_failure(job, "AbandonedJobError: started, and nobody runs it", pipe)
                pipe.execute()
            return
        log.warning("job %s was taken by a worker that is gone: back into its queue", job_id)
        key = make_queue(job.origin, self._redis).key
        with self._redis.pipeline() as pipe:
            pipe.lrem(key, 0, job_id)
            pipe.lpush(key, job_id)
            pipe.execute()

    def _run(self) -> None:
        tidy = Tidy()
        while not self._stop.wait(self._every_s):
            # its own process's memory: the front's, or a bulk job's
            tidy.look()
            try:
                self.look()
            except redis.RedisError as error:
                log.debug("janitor: Redis does not answer (%s)", type(error).__name__)
            except Exception:
                log.exception("janitor failed")


def abandon(client: redis.Redis, worker: str) -> int:
    """Fail the running jobs of a worker that is known to have ended; returns how many there were."""
    heartbeat.forget(client, worker)
    release(client, worker)
    count = 0
    for name in STRICT_ORDER:
        registry = make_queue(name, client).started_job_registry
        mine = [key for key, owner in _executions(client, registry) if owner == worker]
        _fail(client, registry, mine)
        count += len(mine)
    return count


def release(client: redis.Redis, worker: str) -> None:
    """Move what waits for one worker alone to the front of everybody's queue."""
    affinity.forget(client, worker)
    shared = make_queue(STRICT_ORDER[0], client).key
    while client.lmove(private_key(worker), shared, "RIGHT", "LEFT") is not None:
        pass
    bulk = make_queue(BULK, client).key
    while client.lmove(clips_key(worker), bulk, "RIGHT", "LEFT") is not None:
        pass
    client.srem(PRIVATE, worker)


def _executions(client: redis.Redis, registry: StartedJobRegistry) -> list[tuple[str, str]]:
    """Of each running job rq's key of the execution, and the name of the worker that began it."""
    executions = [
        Execution(execution_id, job_id, client)
        for job_id, execution_id in registry.get_job_and_execution_ids(cleanup=False)
    ]
    pipe = client.pipeline(transaction=False)
    for execution in executions:
        pipe.hget(execution.key, "worker_name")
    names = pipe.execute() if executions else []
    return [
        (execution.composite_key, (name or b"").decode()) for execution, name in zip(executions, names, strict=True)
    ]


def _fail(client: redis.Redis, registry: StartedJobRegistry, keys: list[str]) -> None:
    if keys:
        client.zadd(registry.key, dict.fromkeys(keys, _AT_ONCE), xx=True)
        # rq fails them and wakes who waits; a job that has finished meanwhile stays as it is
        registry.cleanup(timestamp=_AT_ONCE)
