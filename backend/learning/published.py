"""The judges of projects' label memories, published for the workers: the newest of each, with a version that grows."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import Any

import redis

from backend.learning.judge import Judge

_VERSIONS = "pallas:memory:versions"

log = logging.getLogger(__name__)


def publish_judge(client: redis.Redis, project: int, judge: Judge) -> None:
    """It takes the place of the one before; only one program at a time does this for a project."""
    # by the clock, so that it grows also where Redis was emptied or the project forgotten meanwhile
    version = max(int(client.hincrby(_VERSIONS, str(project), 0)) + 1, round(1000 * time.time()))
    # first: who reads the version finds at least this judge
    client.set(_key(project), replace(judge, version=version).to_bytes())
    client.hset(_VERSIONS, str(project), version)


def withdraw_judge(client: redis.Redis, project: int) -> None:
    """Jobs from now on are answered by the model alone."""
    client.hdel(_VERSIONS, str(project))
    client.delete(_key(project))


def learned(client: redis.Redis, project: str) -> str:
    """What a job is told of a project's memory, `number@version`; empty where there is none.

    Args:
        client: Redis.
        project: its number, or `number.created_at` as Label Studio sends it.
    """
    number = project.partition(".")[0]
    if not number.isdigit():
        return ""
    version: Any = client.hget(_VERSIONS, number)
    return f"{number}@{int(version)}" if version is not None else ""


def read_judge(client: redis.Redis, project: int) -> Judge | None:
    """The newest judge of a project's memory."""
    data: Any = client.get(_key(project))
    try:
        return Judge.from_bytes(data) if data is not None else None
    except ValueError as error:
        log.warning("the label memory of project %d cannot be read: %s", project, error)
        return None


def base_model(version: str) -> str:
    """Of a model's version what its features depend on: not what a project tuned on top of it."""
    return version.partition("+")[0]


def _key(project: int) -> str:
    return f"pallas:memory:{project}:judge"
