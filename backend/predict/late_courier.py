"""Works on late predictions from a thread, and stores them in Label Studio."""

from __future__ import annotations

import logging
import threading

import redis

from backend import logs
from backend.errors import BackendError, LabelStudioAway, NoWorker, QueueFull, TaskGone, WorkerDied
from backend.label_studio.api import LabelStudioApi
from backend.labeling.roles import read_roles
from backend.learning.confidence import Confidences
from backend.predict.in_flight import InFlight
from backend.predict.late_queue import LateQueue, Pending
from backend.predict.uploads import Uploader
from backend.queueing.dispatcher import Dispatcher
from backend.queueing.leases import Lease
from backend.queueing.queues import BATCH
from backend.settings import Settings
from backend.tasks.answers import Answers
from backend.tasks.planner import Planner, TaskResult

_LEASE = "pallas:late:courier"
_LEASE_S = 60.0
_TRIES = 4
_DEATHS = 2
"""A task that was in hand when so many workers died is given up: it may be what kills them."""

log = logging.getLogger(__name__)


class LateCourier:
    """Works on what is due from a thread, and stores it; of several in a fleet one is at work at a time."""

    def __init__(self, settings: Settings, dispatcher: Dispatcher) -> None:
        self._settings = settings
        self._dispatcher = dispatcher
        self._redis = dispatcher.redis
        self._answers = Answers.of(settings, dispatcher.redis)
        self._planner = Planner(settings, self._answers, Confidences(self._redis, settings.learn_confidence))
        self._late = LateQueue(settings, self._redis)
        self._lease = Lease(self._redis, _LEASE, _LEASE_S)
        self._in_flight = InFlight(settings, dispatcher, BATCH)
        self._in_hand: dict[str, Pending] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="late-courier", daemon=True)

    def start(self) -> None:
        if self._late.possible:
            self._uploader = Uploader(self._redis, LabelStudioApi(self._settings, self._stop), self._stop)
            self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def round(self) -> bool:
        """Submit what is due, deliver what is completed; False where there is nothing to do."""
        if not self._lease.hold():
            self._in_hand.clear()
            self._in_flight = InFlight(self._settings, self._dispatcher, BATCH)
            return False
        room = self._dispatcher.window() - len(self._in_flight)
        for pending in self._late.due(room + len(self._in_flight)) if room > 0 else []:
            if pending.key not in self._in_flight and room > 0:
                room -= 1
                with logs.of_request(pending.request_id):
                    self._submit(pending)
        for result in self._in_flight.completed(self._settings.heartbeat_s):
            pending = self._in_hand.pop(result.key)
            with logs.of_request(pending.request_id):
                self._deliver(pending, result)
        return len(self._in_flight) > 0

    def _submit(self, pending: Pending) -> None:
        try:
            config = self._late.label_config(pending.config)
            if config is None:
                raise TaskGone("its labelling config is gone from Redis")
            roles = read_roles(config, self._settings.language)
            plans = self._planner.plans(pending.task, roles)
            self._in_flight.submit(
                pending.key, pending.task, plans, pending.request_id, pending.deaths > 0, pending.project
            )
            self._in_hand[pending.key] = pending
        except (NoWorker, QueueFull):
            self._late.later(pending, self._settings.heartbeat_s)
        except BackendError as error:
            self._give_up(pending, error)

    def _deliver(self, pending: Pending, result: TaskResult) -> None:
        if not self._late.is_due(pending.key):
            return  # asked for anew: the front that was asked answers
        if result.errors:
            self._failed(pending, result.errors[0])
            return
        shaped = self._planner.shape(result.replies, pending.project)
        self._answers.keep(pending.project, pending.task.id, shaped.remembered)
        prediction, task = shaped.stored, pending.task.id
        try:
            if prediction is not None and task is not None:
                stored = self._uploader.upload(task, prediction)
                if any(reply.clip is not None for _, reply in result.replies):
                    self._uploader.drop_unfinished(task, prediction.model_version)
                log.info("task %s: %s", task, "delivered late" if stored else "had this prediction already")
            self._late.settle([pending.key])
        except LabelStudioAway:
            log.info("task %s is delivered when Label Studio is back", task)
        except BackendError as error:
            self._give_up(pending, error)

    def _failed(self, pending: Pending, error: BackendError) -> None:
        died = isinstance(error, WorkerDied)
        again = pending.model_copy(update={"tries": pending.tries + 1, "deaths": pending.deaths + died})
        if error.status < 500 or again.tries >= _TRIES or again.deaths >= _DEATHS:
            self._give_up(pending, error)
        else:
            self._late.later(again, 2.0**again.tries)

    def _give_up(self, pending: Pending, error: BackendError) -> None:
        log.warning("task %s gets no prediction: %s: %s", pending.task.id, error.type, ascii(str(error)))
        self._late.settle([pending.key])

    def _run(self) -> None:
        # also while a delivery waits for Label Studio: nobody else could store it any sooner
        with self._lease.renewed():
            self._rounds()

    def _rounds(self) -> None:
        while not self._stop.is_set():
            busy = False
            try:
                busy = self.round()
            except redis.RedisError as error:
                log.debug("late courier: Redis does not answer (%s)", type(error).__name__)
            except Exception:
                log.exception("late courier failed")
            if not busy:
                self._stop.wait(self._settings.heartbeat_s)
