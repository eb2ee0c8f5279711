"""What a run of `fit` is to learn, as the command line says it."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

from backend.adapters.store import project_of
from backend.errors import BadRequest
from backend.export.spec import Spec
from backend.label_studio.api import LabelStudioApi
from backend.settings import Settings
from backend.tuning.work import since_of

KINDS = ("labels", "captions", "masks")
_PATIENCE_S = 30.0


@dataclass(frozen=True)
class Wanted:
    """What a run is to learn, and of what.

    Attributes:
        spec: the tasks and their labelling config.
        key: of the project in requests; empty of a file's.
        since: as the command line has it.
        what: of KINDS.
        minutes: of training.
        job: names the run; by_button: it was asked for in Label Studio, and waits for its turn.
    """

    spec: Spec
    key: str
    since: str | None
    what: tuple[str, ...]
    minutes: float
    job: str
    by_button: bool

    @property
    def project(self) -> str:
        return project_of(self.spec.project)

    def same_as(self) -> dict[str, Any]:
        """What a run that goes on must have in common with the one that was stopped."""
        spec = self.spec.model_dump(mode="json", include={"project", "input", "label_config"})
        return {**spec, "since": self.since, "what": list(self.what)}


def wanted(settings: Settings, options: Any) -> Wanted:
    """What the command line asks for.

    Raises:
        BadRequest, ConfigError: it does not say it well. LabelStudioAway, LabelStudioRefused, TaskGone.
    """
    if (options.project is None) == (options.input is None):
        raise BadRequest("say which work: --project NUMBER, or --input FILE (a JSON export with annotations)")
    what = tuple(dict.fromkeys(part.strip() for part in options.what.split(",") if part.strip()))
    if not what or set(what) - set(KINDS):
        raise BadRequest(f"--what takes {', '.join(KINDS)}, separated by commas")
    minutes = settings.fit_minutes if options.minutes is None else options.minutes
    if not 0 < minutes <= 10_000:
        raise BadRequest("--minutes: give a number above 0")
    since_of(options.since)
    key = ""
    if options.project is not None:
        project = LabelStudioApi(settings, patience_s=_PATIENCE_S).project(options.project)
        config, key = project.label_config, project.key
    else:
        if not options.input.is_file():
            raise BadRequest(f"there is no file {options.input}: --input takes a JSON list of tasks")
        try:
            config = options.config.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise BadRequest(f"the labelling config {options.config} cannot be read ({error}): --config") from None
    spec = Spec(
        project=options.project,
        input=options.input.resolve() if options.input is not None else None,
        label_config=config,
        format="jsonl",
    )
    job = options.job or f"fit-{options.project or 'input'}-{uuid.uuid4().hex[:8]}"
    return Wanted(spec, key, options.since, what, minutes, job, options.job is not None)
