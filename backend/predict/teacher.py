"""Teaches the label memories what people submit: from a thread of the front, or from `python -m backend learn`."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import Counter
from dataclasses import dataclass

import redis

from backend.errors import BackendError, ConfigError, LabelStudioAway, NoWorker, QueueFull, TaskGone
from backend.label_studio.api import LabelStudioApi
from backend.label_studio.protocol import LabelStudioTask
from backend.labeling.roles import Roles, read_roles
from backend.learning.memory import LabelMemory
from backend.learning.packing import unpack_features
from backend.learning.published import base_model
from backend.predict.in_flight import InFlight
from backend.predict.lesson_queue import Due, LessonQueue
from backend.predict.lessons import Lessons, lessons_of, looks
from backend.predict.taught import TaughtProject
from backend.queueing.dispatcher import Dispatcher
from backend.queueing.leases import Lease
from backend.queueing.queues import LEARN
from backend.settings import Settings
from backend.tasks.answers import Answers
from backend.tasks.planner import TaskResult

_LEASE = "pallas:learn:teacher"
_LEASE_S = 60.0
_AT_ONCE = 8
_PUBLISHED_EVERY_S = 5.0
_TRIES = 3
_REQUEST = "learn"
_NOBODY = "no worker is ready: what is labelled is learned when one is (start `python -m backend serve`)"

WORK_FIELDS = ("ground_truth", "completed_by", "updated_by", "parent_prediction", "lead_time")
"""Of annotations, beside what is read of every task."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Task:
    due: Due
    task: LabelStudioTask
    lessons: Lessons


class Teacher:
    """Works on what is due; of several in a fleet one is at work at a time."""

    def __init__(self, settings: Settings, dispatcher: Dispatcher) -> None:
        self._settings = settings
        self._dispatcher = dispatcher
        self._redis = dispatcher.redis
        self.queue = LessonQueue(self._redis, settings)
        self.memory = LabelMemory(self._redis, settings)
        self._answers = Answers.of(settings, self._redis)
        self._lease = Lease(self._redis, _LEASE, _LEASE_S)
        self._in_flight = InFlight(settings, dispatcher, LEARN)
        self._in_hand: dict[str, _Task] = {}
        self._projects: dict[int, TaughtProject] = {}
        self._holds = False
        self._took_s = 0.0
        self._tries: Counter[str] = Counter()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="teacher", daemon=True)
        self._api: LabelStudioApi | None = None
        self.trouble = ""
        """Why nothing goes on; empty while it does."""

    def start(self) -> None:
        if self.queue.possible:
            self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def round(self) -> bool:
        """Submit what is due, keep what is completed, publish; False where nothing is to do, or another does it."""
        if not self._lease.hold():
            self._holds = False
            return False
        if not self._holds:
            self._begin()
        if not any(worker.state == "ready" for worker in self._dispatcher.workers()):
            # nobody looks at pictures, and nobody knows the model
            self.trouble = _NOBODY
            return False
        self.trouble = ""
        picked = self.queue.pick(min(_AT_ONCE, self._dispatcher.window()) - len(self._in_flight))
        for due in picked:
            # one that is in work is looked at again after that; and what cannot be reached is not tried for each
            if due.key in self._in_flight or self.trouble:
                self.queue.later(due)
            else:
                self._take(due)
        for result in self._in_flight.completed(self._settings.heartbeat_s / 4):
            self._completed(result)
        self._publish()
        busy = len(self._in_flight) or any(one.changed is not None for one in self._projects.values())
        return bool(busy or (picked and not self.trouble))

    def release(self) -> None:
        """Let another go on."""
        self._lease.release()
        self._holds = False

    def _begin(self) -> None:
        self._holds = True
        self._in_flight = InFlight(self._settings, self._dispatcher, LEARN)
        self._in_hand.clear()
        self._projects.clear()
        self.queue.again()
        for project in self.memory.restore():
            log.info("the label memory of project %d is back from the state folder", project)

    def _take(self, due: Due) -> None:
        try:
            project = self._project(due.project)
            if due.task < 0:
                self._annotation_gone(project, -due.task)
                self.queue.done(due)
                return
            raw = self._label_studio().task(due.project, due.task, WORK_FIELDS)
            known = {key: raw[key] for key in ("id", "data", "annotations") if raw.get(key) is not None}
            task = LabelStudioTask.model_validate(known)
            lessons = self._lessons(project, task)
            self._learn_words(project, task, lessons)
            plans = lessons.plans(task, self._settings.max_prompts, project.same(lessons))
            if plans:
                self._in_flight.submit(due.key, task, plans, f"{_REQUEST}-{due.project}-{due.task}")
                self._in_hand[due.key] = _Task(due, task, lessons)
            else:
                self.queue.done(due)
        except (LabelStudioAway, NoWorker, QueueFull) as error:
            self.trouble = str(error)
            self.queue.later(due)
        except TaskGone:
            self._gone(due)
            self.queue.done(due)
        except (BackendError, ValueError) as error:
            log.warning("task %d of project %d teaches nothing: %s", due.task, due.project, ascii(str(error)))
            self.queue.done(due)

    def _project(self, number: int) -> TaughtProject:
        """As it is in Label Studio and in the memory; examples of another model are due anew."""
        version = base_model(self._dispatcher.model_version())
        state = self.memory.state(number)
        found = self._projects.get(number)
        if found is not None and state is not None and state.model == version:
            return found
        about = self._label_studio().project(number)
        try:
            roles: Roles | None = read_roles(about.label_config, self._settings.language)
        except ConfigError as error:
            log.info("the labelling config of project %d cannot be read: %s", number, ascii(str(error)))
            roles = None
        if state is not None and state.model != version:
            log.info("project %d is learned anew: the model is another one", number)
            self.queue.add(number, {entry.task for entry in self.memory.entries(number).values()})
        self.memory.keep(number, version, {})
        self._projects[number] = TaughtProject(number, roles, self.memory.entries(number))
        return self._projects[number]

    def _lessons(self, project: TaughtProject, task: LabelStudioTask) -> Lessons:
        if project.roles is None:
            return Lessons()
        ids = [str(item["id"]) for work in task.annotations for item in work.result if item.get("id")]
        undecided = self._answers.prompted(task.id, list(dict.fromkeys(ids)))
        return lessons_of(task, project.roles, undecided, self._settings.max_picture_pixels)

    def _learn_words(self, project: TaughtProject, task: LabelStudioTask, lessons: Lessons) -> None:
        """What can be learned without looking: other labels of known regions, regions that are gone, disagreements."""
        assert task.id is not None
        same = project.same(lessons)
        now = {one.id: one.entry for one in lessons.examples}
        changed = {
            name: now[name]
            for name in same
            if now[name].model_copy(update={"at": 0}) != project.entries[name].model_copy(update={"at": 0})
        }
        gone = project.of_task.get(task.id, set()) - set(now)
        self.memory.relabel(project.number, changed)
        self.memory.drop(project.number, gone)
        self.memory.dispute(project.number, task.id, lessons.disputes)
        project.note(changed, gone, lessons.disputes)

    def _annotation_gone(self, project: TaughtProject, annotation: int) -> None:
        """Its task is looked at again: another annotation may have the same regions."""
        tasks = {entry.task for entry in project.entries.values() if annotation in entry.annotations}
        self.queue.add(project.number, tasks)

    def _gone(self, due: Due) -> None:
        """A task that is not there any more, or its project."""
        project = self._projects.get(due.project)
        if project is None or due.task < 0:
            self.memory.forget(due.project)
            self.queue.drop(due.project)
            return
        gone = project.of_task.get(due.task, set())
        self.memory.drop(due.project, gone)
        self.memory.dispute(due.project, due.task, ())
        project.note({}, set(gone))

    def _completed(self, result: TaskResult) -> None:
        taught = self._in_hand.pop(result.key)
        project = self._projects.get(taught.due.project)
        for error in result.errors:
            log.warning("task %d of project %d: %s", taught.due.task, taught.due.project, ascii(str(error)))
        self._tries[result.key] += 1
        if any(error.status >= 500 for error in result.errors) and self._tries[result.key] < _TRIES:
            self.queue.later(taught.due)
            return
        del self._tries[result.key]
        if project is not None and result.replies:
            entries = {one.id: one.entry for one in taught.lessons.examples}
            found = {}
            version = ""
            for plan, reply in result.replies:
                version = base_model(reply.model_version)
                for name, packed in looks(plan, reply):
                    features = unpack_features(packed)
                    if features.any():
                        found[name] = (entries[name], features)
            state = self.memory.state(project.number)
            if state is not None and state.model == version:
                self.memory.keep(project.number, version, found)
                project.note({name: entry for name, (entry, _) in found.items()}, set())
        self.queue.done(taught.due)

    def _publish(self) -> None:
        """What has changed, when nothing more of it is under way, or after a while."""
        busy = {taught.due.project for taught in self._in_hand.values()}
        for number, project in list(self._projects.items()):
            if project.changed is None:
                # the config may change meanwhile
                if number not in busy and time.monotonic() - project.begun > _PUBLISHED_EVERY_S:
                    del self._projects[number]
            elif number not in busy or time.monotonic() - project.changed > max(_PUBLISHED_EVERY_S, 10 * self._took_s):
                begin = time.monotonic()
                state = self.memory.publish(number)
                self._took_s = time.monotonic() - begin
                if state is not None:
                    log.info("project %d: %d examples of %d labels", number, sum(state.examples.values()),
                             len(state.examples))  # fmt: skip
                project.changed = None
                # some may have had to leave
                project.reload(self.memory.entries(number))

    def _label_studio(self) -> LabelStudioApi:
        if self._api is None:
            self._api = LabelStudioApi(self._settings, self._stop, patience_s=0)
        return self._api

    def _run(self) -> None:
        with self._lease.renewed():
            while not self._stop.is_set():
                busy = False
                try:
                    busy = self.round()
                except redis.RedisError as error:
                    log.debug("teacher: Redis does not answer (%s)", type(error).__name__)
                except Exception:
                    log.exception("teacher failed")
                if not busy:
                    self._stop.wait(self._settings.heartbeat_s)
        with contextlib.suppress(redis.RedisError):
            self.release()
