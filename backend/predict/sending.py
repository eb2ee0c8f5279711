"""From a plan to the job that is put into a queue."""

from __future__ import annotations

import time

import redis

from backend.adapters.table import Table, name_of
from backend.fetching.pictures import park
from backend.job import JobRequest
from backend.learning.published import learned
from backend.queueing import heartbeat
from backend.settings import Settings
from backend.tasks.plan import Plan


def request_of(
    plan: Plan,
    request_id: str,
    settings: Settings,
    client: redis.Redis,
    alone: bool = False,
    project: str = "",
    click: bool = False,
    look: bool = False,
) -> JobRequest:
    """The job of a plan; a picture that came inside the task itself lies in Redis from now on.

    Args:
        plan: what is asked.
        request_id: of whoever asks, for the logs.
        settings: limits.
        client: Redis.
        alone: a worker died with it in hand, so that no other job may be in its hand beside it.
        project: as Label Studio names it in requests: its own version of the model answers, if it has one, and its
            label memory judges beside it.
        click: a second version may answer it, as the settings have it.
        look: what the picture looks like is wanted, too.

    Raises:
        BadRequest, PictureError, PictureTooLarge: what is wrong with a picture that came with the task.
        QueueFull: there is no room for it in Redis.
    """
    memory = learned(client, project) if settings.learn_labels and project else ""
    own = Table(client).entry(project)
    adapter = ""
    if own is not None:
        base = heartbeat.published_version(client) or ""
        adapter = own.name_for(base, request_id if click else "", settings.shadow_share)
    return JobRequest(
        request_id=request_id,
        picture=park(plan.picture, client, settings),
        **plan.asked() | ({"alone": True} if alone else {}),
        limits=settings.token_limits,
        adapter=adapter,
        sent_at=time.time(),
        memory=memory,
        look=look,
    )


def version_of(project: str, settings: Settings, client: redis.Redis) -> str:
    """Of the model that answers a project: the workers' and its own version's name; the settings' before any worker."""
    try:
        base = heartbeat.published_version(client)
        if base is None:
            return settings.model
        own = Table(client).entry(project)
    except redis.RedisError:
        return settings.model
    name = own.name_for(base) if own is not None else ""
    return f"{base}+{name_of(name)}" if name else base
