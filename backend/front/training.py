"""*Start Training* in Label Studio: asks a worker to begin a run of `fit`, and tells what became of it."""

from __future__ import annotations

import logging
import time

from backend.adapters.runs import QUEUED, RUNNING, FitRun, Runs
from backend.adapters.store import Store, project_of
from backend.adapters.table import Table, name_of
from backend.errors import BadRequest, FitError, NotFound
from backend.job import FitRequest
from backend.label_studio.protocol import START_TRAINING, WebhookRequest
from backend.queueing.dispatcher import Dispatcher
from backend.queueing.fits import enqueue_fit
from backend.settings import Settings

log = logging.getLogger(__name__)

_SILENT_S = 600


class Training:
    """The front's side of it. Raises (every method) redis.RedisError."""

    def __init__(self, settings: Settings, dispatcher: Dispatcher) -> None:
        self._settings = settings
        self._redis = dispatcher.redis
        self._runs = Runs(dispatcher.redis)
        self._table = Table(dispatcher.redis)

    def take(self, event: WebhookRequest) -> str | None:
        """What an event asks for: the name of the run that it starts, if it does."""
        number = event.project.id if event.project is not None else None
        if event.action == START_TRAINING:
            return self.start(str(number or ""))
        if event.action == "PROJECT_DELETED" and number is not None:
            self._runs.forget(number)
            self._table.forget(number)
            Store(self._settings).delete(project_of(number))
        return None

    def start(self, project: str) -> str:
        """Have a run of a project begun; the name of that run, or of the one that is under way already.

        Raises:
            BadRequest: that is no project's number.
            FitError: the settings switch it off, or there is no way to read annotations.
        """
        name = project.partition(".")[0]
        if not name.isdecimal() or len(name) > 12:
            raise BadRequest("project: training is about one project, give its number")
        number = int(name)
        if not self._settings.fit:
            raise FitError("training is switched off here (PALLAS_FIT)")
        if self._settings.label_studio_url is None or self._settings.label_studio_api_key is None:
            raise FitError("set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY: reviewed work is read through its API")
        run = self._runs.get(number)
        if run is not None and (run.state == RUNNING or self._waits(run)):
            return run.job
        begun = FitRun(
            project=number,
            job=f"fit-{number}-{int(time.time())}",
            state=QUEUED,
            message="waits for a worker that has nothing else to do",
            by_button=True,
            began=time.time(),
        )
        self._runs.note(begun)
        enqueue_fit(self._redis, FitRequest(project=number, job=begun.job), self._settings.job_timeout_s)
        log.info("project %d: a run of fit was asked for", number)
        return begun.job

    @staticmethod
    def _waits(run: FitRun) -> bool:
        """Whether its turn is still to come; one that nobody says anything of any more is lost."""
        return run.state == QUEUED and time.time() - run.at < _SILENT_S

    def status(self, job: str) -> dict[str, object]:
        """Of a run by its name.

        Raises:
            NotFound: it is not its project's newest.
        """
        run = self._runs.of_job(job)
        if run is None:
            raise NotFound("no such job: a newer one took its place, or it is long ago")
        return {"job_status": run.state, "stage": run.stage, "progress": round(run.share, 3), "message": run.message}

    def shown(self) -> list[dict[str, object]]:
        """For the status page: every project's newest run."""
        return [
            {
                "project": run.project,
                "state": run.state,
                "stage": run.stage,
                "share": round(run.share, 3),
                "text": run.message,
                "figures": run.figures,
            }
            for run in self._runs.all()
        ]

    def versions(self, base: str) -> list[str]:
        """All that answer some project, the base first."""
        used = sorted(entry.active for entry in self._table.used().values() if entry.active and entry.base == base)
        return [base, *(f"{base}+{name_of(name)}" for name in used)]

    def faults(self) -> dict[str, str]:
        """Versions that cannot be used, and why."""
        return self._table.faults()
