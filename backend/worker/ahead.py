"""What a worker will most likely be asked next: it looks at its queue, and takes nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import redis

from backend.queueing.queues import PRIVATE, Job, Queue
from backend.queueing.rq_worker import QueueWorker
from backend.worker.engine import coming

log = logging.getLogger(__name__)


def look_ahead(
    worker: QueueWorker, queue: Queue, now: Sequence[dict[str, Any]], sociable: Callable[[Job], bool]
) -> None:
    """Let the pictures of the next step be got ready during this one, whose payloads are `now`.

    Other workers take as many jobs each before this one comes back.
    """
    try:
        others = max(0, int(worker.connection.scard(PRIVATE)) - 1)
        after = worker.waiting(queue, others * len(now), len(now))
        coming([job.args[0] for job in after if sociable(job)], now)
    except redis.RedisError as error:
        log.warning("Redis does not answer (%s)", type(error).__name__)
    except Exception:  # their own turn will tell
        log.exception("the next jobs are not looked at ahead")
