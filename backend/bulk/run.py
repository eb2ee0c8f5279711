"""Putting a bulk job together: its source, its sink, the pump, and starting over after an outage of Redis."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import redis

from backend.bulk.ledger import FINISHED, PAUSED, RUNNING, Ledger
from backend.bulk.naming import file_of_item, name_of
from backend.bulk.pump import Pump
from backend.bulk.sinks import FileSink, LabelStudioSink, Sink
from backend.bulk.sources import PICTURES, VIDEOS, FolderSource, Item, JsonSource, ProjectSource, Source
from backend.bulk.spec import Spec
from backend.bulk.wanted import wanted_roles, wanted_task
from backend.errors import BackendError, ConfigError
from backend.label_studio.api import LabelStudioApi
from backend.labeling.roles import ImageRoles, read_roles
from backend.labeling.video_roles import VideoRoles
from backend.predict.sending import version_of
from backend.predict.uploads import Uploader
from backend.queueing import heartbeat
from backend.queueing.connection import connect
from backend.queueing.dispatcher import Dispatcher
from backend.settings import Settings
from backend.tasks.answers import Answers
from backend.tasks.planner import Planner

_EXAMPLES = 5
_LOADING = "the model is loading"
_NOBODY = "waiting for a worker: start `python -m backend serve` (or `worker`), or add --workers 1"
_ASK_PATIENCE_S = 20.0

log = logging.getLogger(__name__)


def complete(settings: Settings, spec: Spec) -> Spec:
    """The spec with what Label Studio and the workers say.

    Raises:
        LabelStudioAway, LabelStudioRefused, TaskGone: the project cannot be read.
        ConfigError: it has no labelling config.
    """
    if spec.project is not None:
        project = LabelStudioApi(settings, patience_s=_ASK_PATIENCE_S).project(spec.project)
        if not project.label_config.strip():
            raise ConfigError(f"project {spec.project} has no labelling config: set one under Settings")
        spec = spec.model_copy(update={"label_config": project.label_config, "project_key": project.key})
    client = connect(settings)
    version = version_of(spec.project_key, settings, client) if heartbeat.published_version(client) else ""
    return spec.model_copy(update={"model_version": version})


def make_source(settings: Settings, spec: Spec, client: redis.Redis, list_key: str, stop: threading.Event) -> Source:
    """Where the tasks come from."""
    if spec.project is not None:
        return ProjectSource(LabelStudioApi(settings, stop), spec, client, list_key)
    assert spec.input is not None
    if spec.input.is_dir():
        roles = read_roles(spec.label_config, settings.language)
        shown: ImageRoles | VideoRoles = next(iter(roles.images.values()), None) or next(iter(roles.videos.values()))
        if roles.template is not None and shown.name not in roles.of(shown.data_of("")).images:
            raise ConfigError("a folder has no pages for a <Repeater>: give a JSON list of tasks, or another --config")
        return FolderSource(spec.input, shown.data_of, spec.url_prefix, PICTURES if roles.images else VIDEOS)
    return JsonSource(spec.input, read_roles(spec.label_config, settings.language))


def wait_for_worker(
    settings: Settings, ledger: Ledger, stop: threading.Event, tell: Callable[[], None], patience_s: float
) -> bool:
    """True when a worker is ready; its model's version goes into the books. False when a stop was asked for.

    Raises:
        ConfigError: none is there, or none becomes ready.
    """
    client = connect(settings)
    until = time.monotonic() + patience_s
    while not stop.is_set():
        workers = heartbeat.everybody(client)
        if any(worker.state == "ready" for worker in workers):
            spec = ledger.spec()
            version = version_of(spec.project_key, settings, client)
            if spec.model_version and spec.model_version != version:
                log.warning("the workers have %s now, the job began with %s", version, spec.model_version)
            ledger.note(spec=spec.model_copy(update={"model_version": version}).model_dump_json(), note="")
            return True
        ledger.note(note=_LOADING if workers else _NOBODY)
        if time.monotonic() > until:
            raise ConfigError("no worker became ready: start `python -m backend serve`, or add --workers 1")
        tell()
        stop.wait(0.5)
    return False


def run_job(settings: Settings, ledger: Ledger, stop: threading.Event, tell: Callable[[], None]) -> str:
    """Work on a job until it is finished, paused, cancelled or stopped; the state that it is left in."""
    while True:
        try:
            return _run_once(settings, ledger, stop, tell)
        except redis.RedisError as error:
            log.warning("Redis does not answer (%s): the job goes on when it is back", type(error).__name__)
            if stop.wait(1):
                return PAUSED


def _run_once(settings: Settings, ledger: Ledger, stop: threading.Event, tell: Callable[[], None]) -> str:
    dispatcher = Dispatcher(settings)
    client = dispatcher.redis
    spec = ledger.spec()
    # of this run: the pump sets it when it ends, for whoever waits for Label Studio
    ending = threading.Event()
    threading.Thread(target=_pass_on, args=(stop, ending), daemon=True).start()
    source = make_source(settings, spec, client, ledger.list_key, ending)
    total = source.total()
    if total is not None:
        ledger.note(total=min(total, spec.limit) if spec.limit is not None else total)
    sink: Sink
    if spec.output is not None:
        sink = FileSink(spec.output, ledger.job)
    else:
        sink = LabelStudioSink(Uploader(client, LabelStudioApi(settings, ending), ending))
    state = Pump(settings, dispatcher, ledger, source, sink, ending, tell).run()
    if state == FINISHED:
        try:
            sink.finish(source, spec.limit, complete=not ledger.failures())
        except OSError as error:
            ledger.set_state(PAUSED, f"the output cannot be written: {error}")
            return PAUSED
    return state if state != RUNNING else PAUSED


def _pass_on(stop: threading.Event, ending: threading.Event) -> None:
    while not ending.wait(0.2):
        if stop.is_set():
            ending.set()


@dataclass
class Counts:
    """What a dry run finds."""

    tasks: int = 0
    to_do: int = 0
    jobs: int = 0
    regions: int = 0
    proposals: int = 0
    predicted: int = 0
    nothing: int = 0
    unmarked: int = 0
    broken: int = 0
    examples: list[str] = field(default_factory=list)


def plan_only(settings: Settings, spec: Spec, items: Iterable[Item]) -> Counts:
    """Plan every task as a run would, and ask nobody anything."""
    planner = Planner(settings, Answers.of(settings, connect(settings)))
    roles = read_roles(spec.label_config, settings.language)
    counts = Counts()
    for item in items:
        counts.tasks += 1
        try:
            if item.error is not None:
                raise item.error
            assert item.task is not None
            if spec.model_version and spec.model_version in item.versions:
                counts.predicted += 1
                continue
            mine = wanted_roles(roles.of(item.task.data), spec)
            task = wanted_task(item.task, item.raw.get("predictions") or [], mine, spec)
            plans = [plan for plan in planner.plans(task, mine) if plan.groups()]
        except BackendError as error:
            counts.broken += 1
            if len(counts.examples) < _EXAMPLES:
                name = name_of(item.key, file_of_item(item, roles), spec.project is not None)
                counts.examples.append(f"{name}: {error}")
            continue
        counts.to_do += bool(plans)
        counts.nothing += not plans
        counts.unmarked += not plans and planner.lacks_marks(task, mine)
        counts.jobs += len(plans)
        counts.regions += sum(len(plan.wanted) for plan in plans)
        counts.proposals += sum(plan.regions is not None and plan.regions.propose for plan in plans)
    return counts
