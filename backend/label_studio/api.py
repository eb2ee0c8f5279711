"""Label Studio's REST API, as far as bulk jobs and late deliveries speak it: projects, tasks, predictions."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import requests

from backend.errors import LabelStudioAway, LabelStudioFault, LabelStudioRefused, PictureUnreachable, TaskGone
from backend.label_studio.access import LabelStudio
from backend.label_studio.protocol import Prediction
from backend.settings import Settings

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 15.0
_TIMEOUT_S = 30.0
_CONNECT_S = 5.0
_BUSY = (429, 502, 503, 504)

_OF_WORKS = ("result", "was_cancelled", "updated_at", "model_version")
TASK_FIELDS = ("id", "data", "annotations", "drafts", "predictions_model_versions", *_OF_WORKS)
"""What is read of a task: not its predictions, whose masks are long. Label Studio leaves out of annotations and drafts
too what is not named.
"""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Project:
    """A project of Label Studio; `key` is its name in a backend's requests, `tasks` how many it has."""

    id: int
    key: str
    title: str
    label_config: str
    tasks: int


class LabelStudioApi:
    """A client that waits where Label Studio is away.

    Args:
        settings: LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY, of either kind.
        stop: set it, and a call that waits for Label Studio to come back gives up.
        patience_s: how long a call waits for it; None for ever.

    Raises:
        LabelStudioRefused: one of the two is not set.
    """

    def __init__(
        self, settings: Settings, stop: threading.Event | None = None, patience_s: float | None = None
    ) -> None:
        if settings.label_studio_url is None or settings.label_studio_api_key is None:
            raise LabelStudioRefused(
                "set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY: tasks are read and predictions stored through its API"
            )
        self._url = settings.label_studio_url
        self._auth = LabelStudio(settings)
        self._stop = stop or threading.Event()
        self._patience_s = patience_s
        self._local = threading.local()
        self.away_since: float | None = None
        """time.monotonic() since when Label Studio does not answer; None while it does."""

    def project(self, number: int) -> Project:
        """Raises what `call` raises."""
        found = self.call("GET", f"/api/projects/{number}")
        made = int(datetime.fromisoformat(found["created_at"].replace("Z", "+00:00")).timestamp())
        return Project(
            number, f"{number}.{made}", found["title"], found["label_config"] or "", int(found.get("task_number") or 0)
        )

    def tasks_after(
        self, project: int, after: int, count: int, more: Sequence[str] = ()
    ) -> tuple[list[dict[str, Any]], int]:
        """The next tasks with an id above `after`, ordered by id, and how many there are in all above it."""
        return self._tasks(project, [_filter("greater", after)], count, more)

    def task(self, project: int, number: int, more: Sequence[str] = ()) -> dict[str, Any]:
        """One task. Raises TaskGone where there is none."""
        found, _ = self._tasks(project, [_filter("equal", number)], 1, more)
        if not found:
            raise TaskGone(f"task {number} is not in project {project}")
        return found[0]

    def view_task_ids(self, project: int, view: int) -> Iterator[int]:
        """Ids of the tasks of a data manager's tab, page by page."""
        page = 1
        while True:
            query = {"project": project, "view": view, "page": page, "page_size": 500, "include": "id"}
            found = self.call("GET", "/api/tasks", params=query)
            yield from (int(task["id"]) for task in found["tasks"])
            if page * 500 >= found["total"]:
                return
            page += 1

    def has_prediction(self, task: int, model_version: str) -> bool:
        """Whether the task has a prediction of exactly this version."""
        found = self.call("GET", "/api/predictions", params={"task": task})
        return any(prediction.get("model_version") == model_version for prediction in found)

    def post_prediction(self, task: int, prediction: Prediction) -> None:
        """Store a prediction; tried once, since nobody knows after a broken connection whether it was stored."""
        grouped = {"cluster": prediction.cluster} if prediction.cluster is not None else {}
        body = prediction.to_wire() | grouped | {"task": task}
        self.call("POST", "/api/predictions", json=body, again=False)

    def put_cluster(self, prediction: int, cluster: int) -> None:
        """Change the group of a stored prediction, by its number."""
        self.call("PATCH", f"/api/predictions/{prediction}", json={"cluster": cluster})

    def drop_predictions(self, task: int, unwanted: Callable[[str], bool]) -> None:
        """Delete the task's predictions whose model version is unwanted."""
        for prediction in self.call("GET", "/api/predictions", params={"task": task}):
            if unwanted(str(prediction.get("model_version"))):
                self.call("DELETE", f"/api/predictions/{prediction['id']}")

    def rename_predictions(self, task: int, named: Callable[[dict[str, Any]], str | None]) -> None:
        """Give the task's predictions another model version, those for which there is one."""
        for prediction in self.call("GET", "/api/predictions", params={"task": task}):
            version = named(prediction)
            if version is not None:
                self.call("PATCH", f"/api/predictions/{prediction['id']}", json={"model_version": version})

    def call(self, method: str, path: str, again: bool = True, **options: Any) -> Any:
        """One request; the answer's JSON.

        Args:
            method, path, options: as for requests.request.
            again: while Label Studio is away, wait and try again.

        Raises:
            LabelStudioAway: it does not answer (with `again`: not within the patience, or a stop was asked for).
            LabelStudioRefused, TaskGone, LabelStudioFault.
        """
        pause = _FIRST_PAUSE_S
        until = None if self._patience_s is None else time.monotonic() + self._patience_s
        while True:
            try:
                answer = self._once(method, path, options)
                self.away_since = None
                return answer
            except LabelStudioAway as error:
                if self.away_since is None:
                    self.away_since = time.monotonic()
                    log.warning("%s", error)
                wait_s = max(pause, getattr(error, "wait_s", 0.0))
                if not again or (until is not None and time.monotonic() + wait_s > until):
                    raise
                if self._stop.wait(wait_s):
                    raise
                pause = min(2 * pause, _LONGEST_PAUSE_S)

    def _once(self, method: str, path: str, options: dict[str, Any]) -> Any:
        where = f"Label Studio at {self._url}"
        try:
            headers = {"Authorization": self._auth.authorization()}
            answer = self._session().request(
                method,
                self._url + path,
                headers=headers,
                timeout=(_CONNECT_S, _TIMEOUT_S),
                allow_redirects=False,
                **options,
            )
        except PictureUnreachable as error:
            raise LabelStudioAway(str(error)) from None
        except requests.RequestException as error:
            raise LabelStudioAway(f"{where} does not answer ({type(error).__name__})") from None
        code = answer.status_code
        if code in _BUSY:
            busy = LabelStudioAway(f"{where} answers {code}: it is busy or restarts")
            busy.wait_s = _seconds(answer.headers.get("Retry-After"))  # type: ignore[attr-defined]
            raise busy
        if code in (401, 403):
            raise LabelStudioRefused(
                f"{where} answers {code}: is LABEL_STUDIO_API_KEY right, and may its owner see the project? "
                "(a legacy token must be enabled in the organization's settings)"
            )
        if code == 404 or (code == 400 and "object does not exist" in answer.text):
            raise TaskGone(f"{where} has no {path.removeprefix('/api/')}: was it deleted?")
        if not 200 <= code < 300:
            raise LabelStudioFault(f"{where} answers {code} to {method} {path}: {answer.text[:200]}")
        try:
            return answer.json() if answer.content else None
        except ValueError:
            raise LabelStudioFault(f"{where} answers no JSON to {method} {path}: is the address right?") from None

    def _tasks(
        self, project: int, filters: list[dict[str, Any]], count: int, more: Sequence[str]
    ) -> tuple[list[dict[str, Any]], int]:
        query = {"filters": {"conjunction": "and", "items": filters}, "ordering": ["tasks:id"]}
        found = self.call(
            "GET",
            "/api/tasks",
            params={
                "project": project,
                "page_size": count,
                "fields": "all",
                "include": ",".join((*TASK_FIELDS, *more)),
                # cloud storage's addresses as they are: a signed one would expire in the queue
                "resolve_uri": "false",
                "query": json.dumps(query),
            },
        )
        return found["tasks"], int(found["total"])

    def _session(self) -> requests.Session:
        # one for each thread: requests does not promise that a session may be shared
        if not hasattr(self._local, "session"):
            self._local.session = self._auth.session()
        session: requests.Session = self._local.session
        return session


def versions_of(task: dict[str, Any]) -> set[str]:
    """Model versions of a listed task's predictions, as Label Studio joins them."""
    return {version.strip() for version in str(task.get("predictions_model_versions") or "").split(",")} - {""}


def _filter(operator: str, value: int) -> dict[str, Any]:
    return {"filter": "filter:tasks:id", "operator": operator, "type": "Number", "value": value}


def _seconds(retry_after: str | None) -> float:
    try:
        return min(max(float(retry_after or 0), 0.0), 120.0)
    except ValueError:
        return 0.0
