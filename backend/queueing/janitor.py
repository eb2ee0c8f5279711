"""Jobs that a lost worker leaves behind: failed, or put back into their queue, within seconds.

rq itself looks every ten minutes, by the clocks of whoever looks. Here only heartbeats count, which expire in Redis;
and what looks lost must look so twice, so that neither a jump of a clock nor an unlucky moment costs a job.
"""

from __future__ import annotations

import logging
import threading

import redis

from backend.queueing import affinity, heartbeat, queues, versions
from backend.queueing.connection import PATIENCE_S, connect
from backend.queueing.leases import Lease
from backend.queueing.queues import BULK, JOBS, PRIVATE, STRICT_ORDER, clips_key, job_key, make_queue, private_key
from backend.settings import Settings
from backend.system.memory import Tidy

_LEASE = "pallas:janitor"

log = logging.getLogger(__name__)


class Janitor:
    """Looks after the jobs of all workers from a thread; of several in a fleet one is at work at a time."""

    def __init__(self, settings: Settings) -> None:
        self._redis = connect(settings)
        self._every_s = settings.heartbeat_s
        self._lease = Lease(self._redis, _LEASE, 3 * self._every_s)
        self._suspects: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="janitor", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def look(self) -> None:
        """Look once; what was suspect already in the look before is lost."""
        if not self._lease.hold():
            self._suspects = set()
            return
        workers = heartbeat.everybody(self._redis)
        versions.release(self._redis, workers)
        alive = {worker.name for worker in workers}
        self._suspects = self._silent(alive) | self._deserted(alive) | self._astray(alive)

    def _silent(self, alive: set[str]) -> set[str]:
        """Running jobs whose worker has no heartbeat: failed, so that who waits for them learns it."""
        suspects = set()
        for name in STRICT_ORDER:
            silent = [key for _, key, worker in queues.running(self._redis, name) if worker not in alive]
            lost = [key for key in silent if key in self._suspects]
            if lost:
                log.error("%d jobs were lost with their workers", len(lost))
                queues.abandon(self._redis, name, lost)
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
            pipe.hget(job_key(job_id), "status")
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
        shared = [make_queue(name, self._redis).key for name in STRICT_ORDER]
        pipe = self._redis.pipeline(transaction=False)
        for key in (*shared, *map(private_key, alive), *map(clips_key, alive)):
            pipe.lrange(key, 0, -1)
        waiting = {job_id.decode() for found in pipe.execute() for job_id in found}
        begun = {job_id for name in STRICT_ORDER for job_id, _, _ in queues.running(self._redis, name)}
        return waiting | begun | versions.ids(self._redis)

    def _put_back(self, job_id: str) -> None:
        job = queues.find(self._redis, job_id)
        if job is None:
            self._redis.srem(JOBS, job_id)
        elif job.get_status(refresh=False) == "started":
            queues.lose(job)
        else:
            log.warning("job %s was taken by a worker that is gone: back into its queue", job_id)
            queues.put_back(self._redis, job)

    def _run(self) -> None:
        tidy = Tidy()
        while not self._stop.wait(self._every_s):
            # its own process's memory: the front's, or a bulk job's
            tidy.look()
            try:
                self.look()
            except redis.RedisError as error:
                log.debug("janitor: Redis does not answer (%s)", type(error).__name__)
                # signs of life have expired meanwhile: who lives gives another first
                self._suspects = set()
                self._stop.wait(2 * self._every_s + PATIENCE_S)
            except Exception:
                log.exception("janitor failed")


def abandon(client: redis.Redis, worker: str) -> int:
    """Fail the running jobs of a worker that is known to have ended; returns how many there were."""
    heartbeat.forget(client, worker)
    release(client, worker)
    count = 0
    for name in STRICT_ORDER:
        mine = [key for _, key, owner in queues.running(client, name) if owner == worker]
        queues.abandon(client, name, mine)
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
    queues.drop_private(client, worker)
    client.srem(PRIVATE, worker)
