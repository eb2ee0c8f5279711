"""The tasks of an export, one after another, and whose work on each is meant."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from backend.bulk.sources import JsonSource
from backend.errors import BackendError, BadRequest
from backend.export.spec import Spec
from backend.label_studio.api import LabelStudioApi
from backend.label_studio.protocol import LabelStudioTask
from backend.labeling.roles import Roles
from backend.settings import Settings

_PAGE = 50
_MORE = ("predictions", "parent_prediction", "ground_truth", "created_at", "score")


@dataclass(frozen=True)
class Source:
    """One task; `place` grows from task to task, reading goes on after it."""

    key: str
    place: int
    raw: dict[str, Any]
    error: BackendError | None = None

    @property
    def id(self) -> int | None:
        number = self.raw.get("id")
        return number if isinstance(number, int) else None


class Tasks:
    """Where they come from: a project, or a file; of a project `more` fields are read than others need.

    Raises:
        LabelStudioAway, LabelStudioRefused, TaskGone, BadRequest.
    """

    def __init__(self, settings: Settings, spec: Spec, roles: Roles, more: Sequence[str] = _MORE) -> None:
        self._spec = spec
        self._more = more
        self._api = LabelStudioApi(settings, patience_s=settings.wait_s) if spec.project is not None else None
        self._file = JsonSource(spec.input, roles) if spec.input is not None else None

    def total(self) -> int | None:
        if self._api is not None and self._spec.project is not None:
            return self._api.tasks_after(self._spec.project, 0, 1)[1]
        assert self._file is not None
        return self._file.total()

    def after(self, place: int) -> Iterator[Source]:
        """Those with a place above `place`; -1 for all."""
        if self._file is not None:
            for item in self._file.items(place):
                # a file's task may have a number of another Label Studio: it is known by both
                number = item.raw.get("id")
                yield Source(str(number if isinstance(number, int) else item.place), item.place, item.raw, item.error)
            return
        assert self._api is not None and self._spec.project is not None
        while True:
            found, _ = self._api.tasks_after(self._spec.project, max(place, 0), _PAGE, self._more)
            if not found:
                return
            for raw in found:
                place = int(raw["id"])
                yield Source(str(place), place, raw)


def result_of(raw: dict[str, Any], source: str, version: str | None) -> list[dict[str, Any]] | None:
    """The result that is meant: of the newest annotation that was not skipped, or of the newest prediction.

    `reviewed` are annotations that came from a prediction, as a whole or in one of their regions, or are marked as
    ground truth.

    Returns:
        None where the task has no such work; what somebody submitted empty is an empty list.

    Raises:
        BadRequest: it cannot be read.
    """
    try:
        LabelStudioTask.model_validate({"data": raw.get("data"), "annotations": raw.get("annotations") or []})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise BadRequest(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    if source == "predictions":
        works = [one for one in raw.get("predictions") or [] if version in (None, one.get("model_version"))]
        # exports have no times: then the last one is the newest
        works = [one for one in reversed(works) if isinstance(one.get("result"), list)]
    else:
        works = [one for one in raw.get("annotations") or [] if isinstance(one, dict) and not one.get("was_cancelled")]
        if source == "reviewed":
            works = [one for one in works if _reviewed(one)]
    newest = max(works, key=_made_at, default=None)
    return None if newest is None else [item for item in newest.get("result") or [] if isinstance(item, dict)]


def _reviewed(work: dict[str, Any]) -> bool:
    if work.get("parent_prediction") or work.get("ground_truth"):
        return True
    items = work.get("result") or []
    return any(isinstance(item, dict) and str(item.get("origin", "")).startswith("prediction") for item in items)


def _made_at(work: dict[str, Any]) -> float:
    try:
        return datetime.fromisoformat(str(work.get("updated_at") or work.get("created_at"))).timestamp()
    except ValueError:
        return 0.0
