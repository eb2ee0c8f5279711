"""The queues' names and keys, and how one is opened."""

from __future__ import annotations

import logging

import redis
from rq import Queue
from rq.serializers import JSONSerializer

INTERACTIVE, BATCH, BULK = "interactive", "batch", "bulk"
CLIPS = "clips"
STRICT_ORDER = (INTERACTIVE, BATCH, BULK)
"""A worker takes from a later queue only when all earlier ones are empty."""

JOBS = "pallas:jobs"
"""The set of all jobs' ids that are not known to be over; the janitor looks whether they are where they should be."""

PRIVATE = "pallas:private"
"""The set of workers that have a queue of their own."""


log = logging.getLogger(__name__)


def make_queue(name: str, client: redis.Redis) -> Queue:
    """An rq queue whose payloads are JSON: unpickling what lies in Redis would run whoever can write there."""
    return Queue(name, connection=client, serializer=JSONSerializer)


def private_key(worker: str) -> str:
    """Redis key of the queue that only this worker takes from, before all others: clicks on pictures it holds."""
    return f"{Queue.redis_queue_namespace_prefix}{INTERACTIVE}:{worker}"


def clips_key(worker: str) -> str:
    """Redis key of the queue that only this worker takes from, after clicks: further parts of videos it has in hand."""
    return f"{Queue.redis_queue_namespace_prefix}{CLIPS}:{worker}"
