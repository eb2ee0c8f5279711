"""Runs of `fit` that were asked for in Label Studio: each is a program of its own beside the worker that took the job.

So a run that dies takes no worker with it, and clicks do not wait for its steps.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import redis

from backend.adapters.runs import INTERRUPTED, Runs
from backend.errors import WorkerError
from backend.job import FitRequest
from backend.settings import Settings

log = logging.getLogger(__name__)


class FitStarter:
    """Begins such programs, on this machine and with this worker's settings.

    Args:
        settings: as they are.
        client: Redis.
    """

    def __init__(self, settings: Settings, client: redis.Redis) -> None:
        self._settings = settings
        self._runs = Runs(client)
        self._children: list[subprocess.Popen[bytes]] = []

    def start(self, request: FitRequest) -> None:
        """Begin a run.

        Raises:
            WorkerError: the log cannot be written.
        """
        self._children = [child for child in self._children if child.poll() is None]
        command = [sys.executable, "-m", "backend", "fit", "--project", str(request.project), "--job", request.job]
        try:
            self._settings.state_dir.mkdir(parents=True, exist_ok=True)
            with (self._settings.state_dir / f"fit-{request.project}.log").open("ab") as out:
                child = subprocess.Popen(
                    command,
                    env=os.environ | self._settings.to_environment() | {"PALLAS_PARENT": str(os.getpid())},
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    start_new_session=True,
                )
        except OSError as error:
            raise WorkerError(f"a run of fit cannot be started ({error.strerror}): see PALLAS_STATE_DIR") from None
        self._children.append(child)
        log.info("fit of project %d runs as process %d", request.project, child.pid)

    def waiting(self) -> list[FitRequest]:
        """Runs that were asked for in Label Studio, and whose program ended with its worker."""
        return [
            FitRequest(project=run.project, job=run.job)
            for run in self._runs.all()
            if run.by_button and run.project is not None and run.state == INTERRUPTED
        ]
