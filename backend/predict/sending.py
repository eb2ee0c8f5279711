"""From a plan to the job that is put into a queue."""

from __future__ import annotations

import time

import redis

from backend.fetching.pictures import park
from backend.job import JobRequest
from backend.settings import Settings
from backend.tasks.plan import Plan


def request_of(plan: Plan, request_id: str, settings: Settings, client: redis.Redis, alone: bool = False) -> JobRequest:
    """The job of a plan; a picture that came inside the task itself lies in Redis from now on.

    Args:
        plan: what is asked.
        request_id: of whoever asks, for the logs.
        settings: limits.
        client: Redis.
        alone: a worker died with it in hand, so that no other job may be in its hand beside it.

    Raises:
        BadRequest, PictureError, PictureTooLarge: what is wrong with a picture that came with the task.
        QueueFull: there is no room for it in Redis.
    """
    return JobRequest(
        request_id=request_id,
        picture=park(plan.picture, client, settings),
        **plan.asked() | ({"alone": True} if alone else {}),
        limits=settings.token_limits,
        sent_at=time.time(),
    )
