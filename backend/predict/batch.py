"""Requests without a prompt: one task that was opened, or many; what is not ready in time is delivered later."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from backend.errors import BackendError, NoWorker, QueueFull
from backend.label_studio.protocol import Prediction, PredictRequest
from backend.labeling.roles import Roles
from backend.predict import notice
from backend.predict.dedup import Dedup
from backend.predict.in_flight import InFlight
from backend.predict.late_queue import grace_s
from backend.predict.means import Means
from backend.predict.outcome import Outcome
from backend.predict.uploads import claim_key, unfinished_version
from backend.queueing.queues import BATCH
from backend.tasks import drawn
from backend.tasks.plan import PicturePlan, Plan
from backend.tasks.planner import TaskResult

_LOOK_S = 1.0

_MOST_AHEAD = 4

_DO_MARK = 'add pallas="propose" to <Image>, or draw boxes first'

_BARE = f"nothing is marked in this task, so there are no predictions: click a thing; or {_DO_MARK}"

log = logging.getLogger(__name__)


@dataclass
class _Batch:
    """The state of one request.

    Attributes:
        plans: of each task; a task is known by its place in the request.
        predictions: by place; None where nothing is to be predicted.
        waiting: places of tasks that are not in the queue yet.
        errors: by place.
    """

    asked: PredictRequest
    plans: Sequence[list[Plan]]
    request_id: str
    predictions: list[Prediction | None]
    waiting: deque[int]
    errors: dict[int, BackendError] = field(default_factory=dict)

    def key(self, place: int) -> str:
        return f"{self.asked.project}:{self.asked.tasks[place].id}"

    def fail(self, place: int, error: BackendError) -> None:
        self.errors[place] = error
        log.warning("task %s: %s: %s", self.asked.tasks[place].id, error.type, ascii(str(error)))


class Batches:
    """Answers such requests; safe to use from many threads."""

    def __init__(self, means: Means) -> None:
        self._means = means
        self._dedup = Dedup(means.dispatcher.redis, means.settings.wait_s)

    def predict(self, asked: PredictRequest, roles: Roles, request_id: str) -> Outcome:
        """What is ready in time, for each task in its order. Raises every BackendError there is."""
        plans = [self._means.planner.plans(task, roles) for task in asked.tasks]
        if not any(plan.groups() for mine in plans for plan in mine):
            if len(plans) == 1:
                self._encode_ahead(plans[0], request_id)
            return Outcome(self._unmarked(asked, roles) or [None] * len(plans))
        with self._means.seats.taken():
            return self._answer(asked, plans, roles, request_id)

    def _answer(self, asked: PredictRequest, plans: Sequence[list[Plan]], roles: Roles, request_id: str) -> Outcome:
        if len(plans) > 1:
            return self._collect(asked, plans, roles, request_id)
        # Label Studio asks twice at once when a task is opened, and would store both answers
        first = self._dedup.begin(_digest(asked, self._means.version(asked.project)))
        if first is None:
            return Outcome([None])
        with first:
            return self._collect(asked, plans, roles, request_id)

    def _unmarked(self, asked: PredictRequest, roles: Roles) -> list[Prediction | None]:
        """Where somebody retrieves predictions for tasks and none of them is marked: that this is so, and what to do.

        A single task may just have been opened: it is told when it is asked about again.
        """
        if not all(self._means.planner.lacks_marks(task, roles) for task in asked.tasks):
            return []
        many = len(asked.tasks) > 1
        reason = f"nothing is marked in {len(asked.tasks)} of {len(asked.tasks)} tasks: {_DO_MARK}" if many else _BARE
        if not (many or self._means.board.asked_again(asked.project, asked.tasks[0].id)):
            return []
        log.info("%s", reason)
        if not self._means.settings.show_errors:
            return []
        version = self._means.version(asked.project)
        found = [notice.without(reason, roles, version, "nothing marked") for _ in asked.tasks]
        for task, prediction in zip(asked.tasks, found, strict=True):
            if prediction is not None:
                self._means.board.pinned(asked.project, task.id)
        return found

    def _encode_ahead(self, plans: Sequence[Plan], request_id: str) -> None:
        """Have the pictures of an opened task encoded, so that the first click need not wait for it."""
        # of a task with many pages those that are seen first
        for plan in [plan for plan in plans if isinstance(plan, PicturePlan)][:_MOST_AHEAD]:
            try:
                self._means.dispatcher.submit(self._means.request(plan, request_id), BATCH)
            except BackendError as error:
                log.info("not encoded ahead: %s", error.type)

    def _collect(self, asked: PredictRequest, plans: Sequence[list[Plan]], roles: Roles, request_id: str) -> Outcome:
        """Send what is to be done and wait for it.

        A task that fails is left out, and the log says why.

        Raises:
            BackendError: every task failed; the reason of the first.
        """
        begin = time.monotonic()
        todo = [place for place, mine in enumerate(plans) if any(plan.groups() for plan in mine)]
        batch = _Batch(asked, plans, request_id, [None] * len(plans), deque(todo))
        late_possible = self._means.late.possible and all(asked.tasks[place].id is not None for place in todo)
        if late_possible:
            # before anything is begun: whatever becomes of this front, somebody delivers them
            tasks = [asked.tasks[place] for place in todo]
            self._means.late.expect(asked.project, tasks, asked.label_config, request_id, grace_s(self._means.settings))
        in_flight = self._send_and_wait(batch, begin + self._means.settings.batch_patience_s)
        late = sorted([*batch.waiting, *map(int, in_flight)])
        if late_possible:
            again = {place for place, error in batch.errors.items() if error.status >= 500}
            taken = {place for place in todo if self._is_being_stored(batch, place)}
            for place in taken:
                batch.predictions[place] = None
            self._means.late.settle(batch.key(place) for place in set(todo) - set(late) - again - taken)
            self._means.late.hand_over(batch.key(place) for place in {*late, *again} - taken)
            late = sorted({*late, *again})
        if late:
            self._say(batch, late, roles, late_possible)
            for place in late:
                if str(place) in in_flight and batch.predictions[place] is None:
                    batch.predictions[place] = self._so_far(asked.project, in_flight, str(place))
        if batch.errors and not any(batch.predictions) and not late:
            raise batch.errors[min(batch.errors)]
        return Outcome(batch.predictions, late=tuple(asked.tasks[place].id for place in late))

    def _send_and_wait(self, batch: _Batch, deadline: float) -> InFlight:
        """Submit and take in until all is done or the time is over; what is still in the queue then."""
        in_flight = InFlight(self._means.settings, self._means.dispatcher, BATCH, keep=True)
        window = self._means.dispatcher.window()
        while (batch.waiting or len(in_flight)) and time.monotonic() < deadline:
            full = False
            while batch.waiting and len(in_flight) < window and not full:
                place = batch.waiting.popleft()
                try:
                    task, plans = batch.asked.tasks[place], batch.plans[place]
                    in_flight.submit(str(place), task, plans, batch.request_id, project=batch.asked.project)
                except QueueFull:
                    batch.waiting.appendleft(place)
                    full = True
                except NoWorker as error:
                    # nobody is there: to wait would only keep Label Studio waiting too
                    batch.fail(place, error)
                    for other in batch.waiting:
                        batch.errors[other] = error
                    batch.waiting.clear()
                except BackendError as error:
                    batch.fail(place, error)
            if not len(in_flight):
                time.sleep(_LOOK_S if batch.waiting else 0)
            for result in in_flight.completed(max(0.0, min(_LOOK_S, deadline - time.monotonic()))):
                for fault in result.errors:
                    batch.fail(int(result.key), fault)
                batch.predictions[int(result.key)] = self._shaped(batch.asked.project, result)
        return in_flight

    def _shaped(self, project: str, result: TaskResult) -> Prediction | None:
        shaped = self._means.planner.shape(result.replies, project)
        self._means.answers.keep(project, result.task.id, shaped.remembered)
        return shaped.stored

    def _so_far(self, project: str, in_flight: InFlight, key: str) -> Prediction | None:
        """Of a video that is still in work; its version says so, the whole one is delivered later."""
        prediction = self._shaped(project, in_flight.so_far(key))
        if prediction is None:
            return None
        version = unfinished_version(prediction.model_version, in_flight.share(key))
        return prediction.model_copy(update={"model_version": version})

    def _is_being_stored(self, batch: _Batch, place: int) -> bool:
        """Whether the same prediction is on its way into Label Studio already, from an earlier request."""
        prediction, task = batch.predictions[place], batch.asked.tasks[place].id
        if prediction is None or task is None:
            return False
        return bool(self._means.dispatcher.redis.exists(claim_key(task, prediction.model_version)))

    def _say(self, batch: _Batch, late: Sequence[int], roles: Roles, possible: bool) -> None:
        numbers = [batch.asked.tasks[place].id for place in late]
        shown = ", ".join(map(str, numbers[:10])) + (", …" if len(numbers) > 10 else "")
        patience_s = self._means.settings.batch_patience_s
        if possible:
            log.info(
                "%d of %d tasks are not ready in %g s and are delivered when they are: %s",
                *(len(late), len(batch.plans), patience_s, shown),
            )
            return
        reason = (
            f"not ready within {patience_s:g} s, and without LABEL_STUDIO_API_KEY it cannot be delivered later: "
            "set it (and LABEL_STUDIO_URL), or retrieve predictions again"
        )
        log.warning("%d of %d tasks: %s: %s", len(late), len(batch.plans), reason, shown)
        if self._means.settings.show_errors:
            for place in late:
                batch.predictions[place] = notice.without(reason, roles, self._means.version(batch.asked.project))
                if batch.predictions[place] is not None:
                    self._means.board.pinned(batch.asked.project, batch.asked.tasks[place].id)


def _digest(asked: PredictRequest, model_version: str) -> str:
    """Of one task's question."""
    (task,) = asked.tasks
    parts: list[Any] = [asked.project, task.id, task.data, drawn.newest(task), asked.label_config, model_version]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
