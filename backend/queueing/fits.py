"""Runs of `fit` that are asked for by a button: they wait below everything else."""

from __future__ import annotations

import redis

from backend.job import FUNCTION, VERSION, FitRequest
from backend.queueing.queues import TUNING, enqueue, forget, make_queue

_KEPT_S = 3600


def enqueue_fit(client: redis.Redis, request: FitRequest, limit_s: int) -> None:
    """Have a worker begin a run when nothing else waits; it waits as long as it must, and is there once.

    Args:
        client: Redis.
        request: the run.
        limit_s: for beginning it, not for the run.
    """
    job_id = f"begin-{request.job}"
    forget(client, job_id)
    payload = {"version": VERSION, "request_id": job_id, "fit": request.model_dump(mode="json")}
    queue = make_queue(TUNING, client)
    enqueue(
        queue,
        FUNCTION,
        payload,
        f"fit {request.project}",
        limit_s=limit_s,
        result_s=_KEPT_S,
        failure_s=_KEPT_S,
        job_id=job_id,
    )
