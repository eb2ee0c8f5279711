"""Many tasks in one request, without a prompt: what is ready in time is answered, the rest is delivered later."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from backend.errors import BackendError, NoWorker, QueueFull
from backend.label_studio.protocol import Prediction, PredictRequest
from backend.label_studio.uploads import claim_key
from backend.labeling.roles import Roles
from backend.predict import notice
from backend.predict.in_flight import InFlight, TaskResult
from backend.predict.late_queue import Deliveries, grace_s
from backend.queueing.dispatcher import Dispatcher
from backend.queueing.queues import BATCH
from backend.settings import Settings

if TYPE_CHECKING:
    from backend.predict.service import Service
    from backend.tasks.plan import Plan

_LOOK_S = 1.0

log = logging.getLogger(__name__)


@dataclass
class _Work:
    """The state of one request.

    Attributes:
        answers: by the task's place in the request; None where nothing is to be predicted.
        waiting: places of tasks that are not in the queue yet.
        errors: by place.
    """

    asked: PredictRequest
    plans: Sequence[list[Plan]]
    request_id: str
    answers: list[Prediction | None]
    waiting: deque[int]
    errors: dict[int, BackendError] = field(default_factory=dict)

    def key(self, place: int) -> str:
        return f"{self.asked.project}:{self.asked.tasks[place].id}"


class Batches:
    """Answers such requests; safe to use from many threads."""

    def __init__(self, settings: Settings, service: Service, dispatcher: Dispatcher, deliveries: Deliveries) -> None:
        self._settings = settings
        self._service = service
        self._dispatcher = dispatcher
        self._deliveries = deliveries

    def answer(
        self, asked: PredictRequest, plans: Sequence[list[Plan]], roles: Roles, request_id: str
    ) -> tuple[list[Prediction | None], list[int]]:
        """One answer for each task, in their order, and the places of those that are not ready in time.

        A task that fails is left out, and the log says why.

        Raises:
            BackendError: every task failed; the reason of the first.
        """
        begin = time.monotonic()
        todo = [place for place, mine in enumerate(plans) if any(plan.groups() for plan in mine)]
        work = _Work(asked, plans, request_id, [None] * len(plans), deque(todo))
        late_possible = self._deliveries.possible and all(asked.tasks[place].id is not None for place in todo)
        if late_possible:
            # before anything is begun: whatever becomes of this front, somebody delivers them
            tasks = [asked.tasks[place] for place in todo]
            self._deliveries.expect(asked.project, tasks, asked.label_config, request_id, grace_s(self._settings))
        flights = self._work(work, begin + self._settings.batch_patience_s)
        late = sorted([*work.waiting, *map(int, flights)])
        if late_possible:
            again = {place for place, error in work.errors.items() if error.status >= 500}
            taken = {place for place in todo if self._is_being_stored(work, place)}
            for place in taken:
                work.answers[place] = None
            self._deliveries.settle(work.key(place) for place in set(todo) - set(late) - again - taken)
            self._deliveries.hand_over(work.key(place) for place in {*late, *again} - taken)
            late = sorted({*late, *again})
        if late:
            self._say(work, late, roles, late_possible)
            for place in late:
                if str(place) in flights and work.answers[place] is None:
                    landing, share = flights.so_far(str(place)), flights.share(str(place))
                    work.answers[place] = self._service.so_far(asked.project, landing, share)
        if work.errors and not any(work.answers) and not late:
            raise work.errors[min(work.errors)]
        return work.answers, late

    def _work(self, work: _Work, deadline: float) -> InFlight:
        """Launch and land until all is done or the time is over; what is still in the queue then."""
        flights = InFlight(self._service, self._dispatcher, BATCH, keep=True)
        window = self._service.window()
        while (work.waiting or len(flights)) and time.monotonic() < deadline:
            full = False
            while work.waiting and len(flights) < window and not full:
                place = work.waiting.popleft()
                try:
                    flights.launch(str(place), work.asked.tasks[place], work.plans[place], work.request_id)
                except QueueFull:
                    work.waiting.appendleft(place)
                    full = True
                except NoWorker as error:
                    # nobody is there: to wait would only keep Label Studio waiting too
                    self._fail(work, place, error)
                    for other in work.waiting:
                        work.errors[other] = error
                    work.waiting.clear()
                except BackendError as error:
                    self._fail(work, place, error)
            if not len(flights):
                time.sleep(_LOOK_S if work.waiting else 0)
            for landing in flights.land(max(0.0, min(_LOOK_S, deadline - time.monotonic()))):
                self._land(work, landing)
        return flights

    def _land(self, work: _Work, landing: TaskResult) -> None:
        place = int(landing.key)
        for error in landing.errors:
            self._fail(work, place, error)
        work.answers[place] = self._service.predicted(work.asked.project, landing)

    def _fail(self, work: _Work, place: int, error: BackendError) -> None:
        work.errors[place] = error
        task = work.asked.tasks[place].id
        log.warning("task %s: %s: %s", task, error.type, ascii(str(error)))

    def _is_being_stored(self, work: _Work, place: int) -> bool:
        """Whether the same answer is on its way into Label Studio already, from an earlier request."""
        answer, task = work.answers[place], work.asked.tasks[place].id
        if answer is None or task is None:
            return False
        return bool(self._dispatcher.redis.exists(claim_key(task, answer.model_version)))

    def _say(self, work: _Work, late: Sequence[int], roles: Roles, possible: bool) -> None:
        numbers = [work.asked.tasks[place].id for place in late]
        shown = ", ".join(map(str, numbers[:10])) + (", …" if len(numbers) > 10 else "")
        patience_s = self._settings.batch_patience_s
        if possible:
            log.info(
                "%d of %d tasks are not ready in %g s and are delivered when they are: %s",
                *(len(late), len(work.plans), patience_s, shown),
            )
            return
        reason = (
            f"not ready within {patience_s:g} s, and without LABEL_STUDIO_API_KEY it cannot be delivered later: "
            "set it (and LABEL_STUDIO_URL), or retrieve predictions again"
        )
        log.warning("%d of %d tasks: %s: %s", len(late), len(work.plans), reason, shown)
        if self._settings.show_errors:
            for place in late:
                work.answers[place] = notice.unready(reason, roles, self._dispatcher.model_version())
                if work.answers[place] is not None:
                    self._service.board.pinned(work.asked.project, work.asked.tasks[place].id)
