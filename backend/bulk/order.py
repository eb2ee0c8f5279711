"""`python -m backend order`: has Label Studio give annotators the doubtful and different tasks first.

Its *Uncertainty sampling* takes, of the tasks that have a prediction of the project's model version, those of the group
that this annotator has done least of, and in it the lowest score.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console

from backend.bulk import arguments, cli
from backend.bulk.grouping import Grouping
from backend.errors import BackendError, NoWorker, QueueFull, TaskGone
from backend.label_studio.access import cloud_path
from backend.label_studio.api import LabelStudioApi
from backend.label_studio.protocol import LabelStudioTask
from backend.labeling.roles import Roles, read_roles
from backend.predict.in_flight import InFlight
from backend.queueing.connection import connect
from backend.queueing.dispatcher import Dispatcher
from backend.queueing.queues import LEARN
from backend.run.embedded_redis import running
from backend.settings import Settings
from backend.tasks.plan import PicturePlan

BY_DOUBT, IN_SEQUENCE = "Uncertainty sampling", "Sequential sampling"
_PAGE = 100
_LOOK_S = 1.0
_ASK_PATIENCE_S = 60.0
_REQUEST = "order"


@dataclass
class Found:
    """What a project's predictions of one model version are: how many, without a score, grouped now, not groupable."""

    predicted: int = 0
    scoreless: int = 0
    grouped: int = 0
    failed: int = 0


def order(settings: Settings, given: argparse.Namespace, console: Console) -> int:
    """Store what is missing of a project's predictions and switch its sampling; the process's exit code.

    Raises:
        BackendError: it cannot be done; the message says why.
    """
    api = LabelStudioApi(settings, patience_s=_ASK_PATIENCE_S)
    project: int = given.project
    before = api.call("GET", f"/api/projects/{project}")
    if given.off:
        _switch(api, project, before, {"sampling": IN_SEQUENCE}, console)
        return 0
    parser = argparse.ArgumentParser()
    arguments.add_arguments(parser)
    options = parser.parse_args(["--project", str(project)])
    options.regions, options.texts = given.regions, given.texts
    # a task that cannot be predicted does not keep the others from being sorted
    code = cli.run(settings, options, console)
    if code == 130:
        return code
    with running(settings):
        version = Dispatcher(settings).model_version()
        roles = read_roles(str(before["label_config"]), settings.language)
        found = _group(settings, api, project, roles, version)
    if not found.predicted:
        console.print(
            f"no task has a prediction of {version}: there is nothing to sort by, and the sampling stays as it is. "
            "Add --regions propose, or mark regions first",
            highlight=False,
        )
        return 1
    console.print(f"{found.predicted} tasks have a prediction of {version}", highlight=False, soft_wrap=True)
    if found.grouped:
        console.print(f"{found.grouped} predictions had no group of like pictures: they have one now", highlight=False)
    if found.failed:
        console.print(
            f"{found.failed} pictures could not be looked at: their tasks count as one group", highlight=False
        )
    if found.scoreless:
        console.print(
            f"{found.scoreless} have no score (nothing was doubtful in them): they come first", highlight=False
        )
    _switch(api, project, before, {"sampling": BY_DOUBT, "model_version": version}, console)
    return code


def _switch(
    api: LabelStudioApi, project: int, before: dict[str, object], after: dict[str, str], console: Console
) -> None:
    changed = {name: value for name, value in after.items() if before.get(name) != value}
    if changed:
        api.call("PATCH", f"/api/projects/{project}", json=changed)
    for name, value in after.items():
        was = f", it was {before.get(name) or 'not set'}" if name in changed else " already"
        console.print(f"project {project}: {name.replace('_', ' ')} is {value}{was}", highlight=False, soft_wrap=True)


def _group(settings: Settings, api: LabelStudioApi, project: int, roles: Roles, version: str) -> Found:
    """Give predictions of this version that are in no group one, by what their pictures look like."""
    dispatcher = Dispatcher(settings)
    found = Found()
    grouping = Grouping(connect(settings), project, version) if settings.learn_clusters else None
    in_flight = InFlight(settings, dispatcher, LEARN, look=True)
    numbers: dict[str, int] = {}

    def settle(most: int) -> None:
        while len(in_flight) > most:
            for result in in_flight.completed(_LOOK_S):
                number = grouping.number(reply for _, reply in result.replies) if grouping is not None else None
                try:
                    if number is None:
                        raise TaskGone("its picture could not be looked at")
                    api.put_cluster(numbers.pop(result.key), number)
                    found.grouped += 1
                except TaskGone:
                    found.failed += 1

    for task, prediction in _predictions(api, project, version):
        found.predicted += 1
        found.scoreless += prediction.get("score") is None
        if grouping is None or prediction.get("cluster") is not None:
            continue
        plan = _picture(task, roles)
        if plan is None:
            found.failed += 1
            continue
        key = str(task.id)
        numbers[key] = int(str(prediction["id"]))
        while True:
            try:
                in_flight.submit(key, task, [plan], f"{_REQUEST}-{project}-{key}")
                break
            except QueueFull:
                settle(max(0, len(in_flight) - 1))
            except NoWorker:
                raise
            except BackendError:
                found.failed += 1
                break
        settle(dispatcher.window() - 1)
    settle(0)
    if grouping is not None:
        grouping.keep()
    return found


def _predictions(
    api: LabelStudioApi, project: int, version: str
) -> Iterator[tuple[LabelStudioTask, dict[str, object]]]:
    """Each task that has a prediction of this version, with it."""
    after = 0
    while True:
        tasks, _ = api.tasks_after(project, after, _PAGE, ("predictions", "cluster", "score"))
        if not tasks:
            return
        for raw in tasks:
            after = int(raw["id"])
            mine = [one for one in raw.get("predictions") or [] if one.get("model_version") == version]
            if mine:
                yield LabelStudioTask.model_validate({"id": raw["id"], "data": raw["data"]}), mine[-1]


def _picture(task: LabelStudioTask, roles: Roles) -> PicturePlan | None:
    """The task's first picture, to be looked at; None of a video."""
    for image in roles.of(task.data).images.values():
        page = image.pages(task.data)[0] if image.pages(task.data) else image
        if (address := page.picture(task.data)) is not None:
            return PicturePlan(page, cloud_path(address.strip(), task.id))
    return None
