"""The books of `fit`, in Redis: one run a project, how far it is, and what came of it."""

from __future__ import annotations

import json
import time
from typing import Any

import redis
from pydantic import BaseModel, ConfigDict, ValidationError

from backend.queueing.leases import Lease

QUEUED, RUNNING, FINISHED, FAILED, INTERRUPTED = "queued", "started", "finished", "failed", "stopped"
"""States, in the words of Label Studio's job status."""

_KEY = "pallas:fits"
_LEASE = "pallas:fit"
_LEASE_S = 10.0
_MOST = 200


class FitRun(BaseModel):
    """A project's newest run.

    Attributes:
        project: its number; None where the work is in a file.
        job: names the run for Label Studio.
        state: QUEUED, RUNNING, FINISHED, FAILED or INTERRUPTED.
        stage, share: what it is doing, and how much of that is done, 0..1.
        message: for people: what came of it, or what is wrong.
        by_button: it was started in Label Studio, not in a terminal.
        figures: see `model.tuning.fit.Outcome.figures`.
        began, at: when it was asked for, and when this was written; seconds since the epoch.
    """

    model_config = ConfigDict(extra="ignore")

    project: int | None
    job: str
    state: str
    stage: str = ""
    share: float = 0.0
    message: str = ""
    by_button: bool = False
    figures: dict[str, Any] = {}
    began: float = 0.0
    at: float = 0.0


class Runs:
    """Raises (every method): redis.RedisError."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def get(self, project: int | None) -> FitRun | None:
        """A project's newest run; one that nobody works on any more is INTERRUPTED."""
        found = self._redis.hget(_KEY, str(project))
        run = _read(found)
        if run is not None and run.state == RUNNING and not self.is_running():
            return run.model_copy(
                update={"state": INTERRUPTED, "message": run.message or _GO_ON.format(where(project))}
            )
        return run

    def all(self) -> list[FitRun]:
        """Of all projects, the newest first."""
        names: Any = self._redis.hkeys(_KEY)
        runs = [self.get(None if name == b"None" else int(name)) for name in names]
        return sorted((run for run in runs if run is not None), key=lambda run: -run.at)

    def of_job(self, job: str) -> FitRun | None:
        """The run of a name, if it is its project's newest."""
        return next((run for run in self.all() if run.job == job), None)

    def note(self, run: FitRun) -> None:
        """Write a project's run down; of very many projects the oldest is forgotten."""
        if int(self._redis.hlen(_KEY)) >= _MOST and (oldest := self.all()[-1]).project != run.project:
            self._redis.hdel(_KEY, str(oldest.project))
        self._redis.hset(_KEY, str(run.project), run.model_copy(update={"at": time.time()}).model_dump_json())

    def forget(self, project: int) -> None:
        self._redis.hdel(_KEY, str(project))

    def is_running(self) -> bool:
        """Whether a run is under way, of whichever project."""
        return bool(self._redis.exists(_LEASE))

    def lease(self, me: str) -> Lease:
        """The right to run: one at a time."""
        return Lease(self._redis, _LEASE, _LEASE_S, me)


_GO_ON = "it was stopped: `python -m backend fit {}` goes on where it was"


def where(project: int | None) -> str:
    """As the command line has it."""
    return "--input FILE" if project is None else f"--project {project}"


def _read(value: Any) -> FitRun | None:
    try:
        return FitRun.model_validate(json.loads(value)) if isinstance(value, bytes) else None
    except (ValueError, ValidationError):
        return None
