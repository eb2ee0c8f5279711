"""`python -m backend learn`: teaches a project's label memory what is labelled there, shows and forgets memories."""

from __future__ import annotations

import time

import redis
from rich.console import Console
from rich.table import Table

from backend.errors import BadRequest, NoWorker
from backend.label_studio.api import LabelStudioApi
from backend.learning.memory import LabelMemory, State
from backend.predict.lesson_queue import LessonQueue
from backend.predict.teacher import Teacher
from backend.queueing.dispatcher import Dispatcher
from backend.settings import Settings

_PAGE = 100
_LOOK_S = 0.5
_SETTLED_S = 5.0
_SHOWN = 20
_ASK_PATIENCE_S = 20.0


def learn(settings: Settings, project: int, console: Console) -> int:
    """Teach all that is labelled in a project, and what has been taught of what is gone leaves.

    Raises:
        BadRequest, NoWorker: why nothing can be taught.
        LabelStudioAway, LabelStudioRefused, TaskGone: the project cannot be read.
    """
    dispatcher = Dispatcher(settings)
    teacher = Teacher(settings, dispatcher)
    if not settings.learn_labels:
        raise BadRequest("PALLAS_LEARN_LABELS is off: nothing is learned")
    api = LabelStudioApi(settings, patience_s=_ASK_PATIENCE_S)
    api.project(project)
    if not dispatcher.workers():
        raise NoWorker("no worker is running: start one with `python -m backend serve`, then try again")
    begin = time.time()
    tasks = _labelled(api, project) | {entry.task for entry in teacher.memory.entries(project).values()}
    teacher.queue.add(project, tasks)
    console.print(f"project {project}: {len(tasks)} tasks to learn of", highlight=False)
    _wait(teacher, project, begin, console)
    return show(teacher.memory, console, project)


def forget(settings: Settings, client: redis.Redis, project: int, console: Console) -> int:
    """Drop a project's memory, in Redis and in the state folder."""
    LessonQueue(client, settings).drop(project)
    there = LabelMemory(client, settings).forget(project)
    console.print(f"project {project}: {'forgotten' if there else 'nothing was learned'}", highlight=False)
    return 0


def show(memory: LabelMemory, console: Console, project: int | None = None) -> int:
    """Print what has been learned of one project, or of each in short."""
    states = [state for state in memory.states() if project in (None, state.project)]
    if not states:
        console.print(
            "Nothing learned yet: annotations that are submitted in Label Studio come in through its webhook, and "
            "`python -m backend learn --project N` reads those that are there."
        )
        return 0
    for state in states:
        _show(state, memory, console, whole=project is not None)
    return 0


def _show(state: State, memory: LabelMemory, console: Console, whole: bool) -> None:
    console.print(f"project {state.project}, {state.model}", highlight=False)
    table = Table("label", "examples", "believed")
    trusted = state.trusted or {}
    for label, count in list(state.examples.items())[: None if whole else _SHOWN]:
        said = f"{trusted.get(label, 0.0):.0%}" if trusted.get(label) else "not yet"
        table.add_row(label.replace("\x1f", " / "), str(count), said)
    console.print(table)
    console.print(
        f"{sum(state.examples.values())} labels of people's regions, {state.background} places beside them, "
        f"{state.bytes / 1e6:.1f} MB; believed: how often the memory is right about a label's own examples, each left "
        "out, less by what few examples leave open",
        highlight=False,
    )
    for task, found in memory.disagreements(state.project).items():
        for one in found:
            said = ", ".join(f"{who}: {label}" for who, label in one["labels"].items())
            console.print(
                f"task {task}: annotators disagree about a region, it is not learned: {said}", highlight=False
            )


def _labelled(api: LabelStudioApi, project: int) -> set[int]:
    """The numbers of the tasks that somebody has labelled."""
    found: set[int] = set()
    after = 0
    while True:
        tasks, _ = api.tasks_after(project, after, _PAGE)
        if not tasks:
            return found
        found |= {int(task["id"]) for task in tasks if task.get("annotations")}
        after = int(tasks[-1]["id"])


def _wait(teacher: Teacher, project: int, begin: float, console: Console) -> None:
    """Teach, or wait for the front that does, until nothing is left."""
    told = ""
    idle_since: float | None = None
    while True:
        busy = teacher.round()
        if teacher.trouble != told:
            told = teacher.trouble
            if told:
                console.print(told, highlight=False, markup=False)
        if busy or teacher.queue.waiting(project):
            idle_since = None
        else:
            idle_since = idle_since or time.monotonic()
            state = teacher.memory.state(project)
            # whoever taught it publishes it then
            if (state is not None and state.at >= begin) or time.monotonic() - idle_since > _SETTLED_S:
                break
        if not busy:
            time.sleep(_LOOK_S)
    teacher.release()
