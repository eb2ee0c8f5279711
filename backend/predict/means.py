"""What it takes to answer a request, be it a click or many tasks."""

from __future__ import annotations

from dataclasses import dataclass

from backend.job import JobRequest
from backend.learning.confidence import Confidences
from backend.predict.late_queue import LateQueue
from backend.predict.notice import Board
from backend.predict.seats import Seats
from backend.predict.sending import request_of, version_of
from backend.queueing.dispatcher import Dispatcher
from backend.settings import Settings
from backend.tasks.answers import Answers
from backend.tasks.plan import Plan
from backend.tasks.planner import Planner


@dataclass(frozen=True)
class Means:
    """One set of them for a front; all are safe to use from many threads."""

    settings: Settings
    dispatcher: Dispatcher
    planner: Planner
    answers: Answers
    board: Board
    late: LateQueue
    seats: Seats

    @classmethod
    def of(cls, settings: Settings, dispatcher: Dispatcher) -> Means:
        answers = Answers.of(settings, dispatcher.redis)
        return cls(
            settings,
            dispatcher,
            Planner(settings, answers, Confidences(dispatcher.redis, settings.learn_confidence)),
            answers,
            Board(dispatcher.redis),
            LateQueue(settings, dispatcher.redis),
            Seats(settings.threads),
        )

    def request(self, plan: Plan, request_id: str, project: str = "", click: bool = False) -> JobRequest:
        """Of a plan, as it goes to a worker; arguments and errors are those of `request_of`."""
        return request_of(plan, request_id, self.settings, self.dispatcher.redis, project=project, click=click)

    def version(self, project: str) -> str:
        """Of the model that answers a project."""
        return version_of(project, self.settings, self.dispatcher.redis)
