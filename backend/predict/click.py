"""An interactive request: one job for the click, sent and waited for."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from backend.errors import BackendError, BadRequest
from backend.label_studio.protocol import Context, Prediction, PredictRequest
from backend.labeling.roles import Roles
from backend.predict import notice
from backend.predict.lost import LostSuggestions
from backend.predict.means import Means
from backend.predict.outcome import Outcome
from backend.tasks.plan import PicturePlan
from backend.tasks.results import Words

log = logging.getLogger(__name__)

_NO_WAY_BACK = "without LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY there is no way to deliver it"


class Clicks:
    """Answers clicks; safe to use from many threads."""

    def __init__(self, means: Means, lost: LostSuggestions) -> None:
        self._means = means
        self._lost = lost

    def predict(self, asked: PredictRequest, context: Context, roles: Roles, request_id: str) -> Outcome:
        """The prediction for a click, or the reason as a notice. Raises every BackendError there is."""
        if not context.result:
            # sent when a page is left: there is nothing to answer, and anything would be inserted
            return self._nothing(asked)
        if len(asked.tasks) != 1:
            raise BadRequest(f"tasks: an interactive request is about one task, this one has {len(asked.tasks)}")
        self._means.board.worked_on(asked.project, asked.tasks[0].id)
        if context.result[-1].to_name in roles.videos:
            return self._marked(asked, context, roles, request_id)
        try:
            return self._click(asked, context, roles, request_id)
        except BackendError as error:
            shown = notice.shown(error, context.result, roles) if self._means.settings.show_errors else None
            if shown is None:
                raise
            self._means.board.pinned(asked.project, asked.tasks[0].id)
            return Outcome([Prediction(result=shown, model_version=self._version(asked))], shown=error)

    def _click(self, asked: PredictRequest, context: Context, roles: Roles, request_id: str) -> Outcome:
        (task,) = asked.tasks
        plan = self._means.planner.click(task, context, asked.project, roles)
        typed = plan.prompts if plan is not None and plan.typed else ()
        if plan is None or not self._means.answers.claim(task.id, typed):
            return self._nothing(asked)
        begin = time.perf_counter()
        try:
            with self._means.seats.taken():
                request = self._means.request(plan, request_id, asked.project, click=True)
                reply = self._means.dispatcher.run(request)
        except BaseException:
            self._means.answers.disclaim(task.id, typed)
            raise
        arrived = time.perf_counter()
        shaped = self._means.planner.shape([(plan, reply)], asked.project)
        self._means.answers.keep(asked.project, task.id, shaped.remembered, plan.prompts)
        end = time.perf_counter()
        prediction = shaped.prediction
        prediction.result += self._means.board.answered(
            asked.project, task.id, plan.image, self._said(asked, plan, shaped.words)
        )
        return Outcome([prediction], reply, reply.seconds | {"shape": end - arrived}, end - begin)

    def _said(self, asked: PredictRequest, plan: PicturePlan, words: Sequence[Words]) -> str:
        """What the message field says beside a suggestion."""
        lost = self._lost.tell(asked.project) if self._means.settings.show_errors else ""
        suggestion = notice.suggestion(words) if self._means.settings.show_suggestions else ""
        found = [search.told(len(words)) for search, _ in plan.searches]
        return " | ".join(part for part in (lost, *found, suggestion) if part)

    def _marked(self, asked: PredictRequest, context: Context, roles: Roles, request_id: str) -> Outcome:
        """A video's region was relabelled, or one of its texts edited: nothing, since it would be inserted unseen.

        Boxes that are not tracked yet come later as a prediction, which somebody can look at.
        """
        task = self._means.planner.marked(asked.tasks[0], context, roles)
        if task is None:
            return self._nothing(asked)
        if task.id is None or not self._means.late.possible:
            log.info("a marked video is not tracked: %s", _NO_WAY_BACK)
            return self._nothing(asked)
        self._means.late.expect(asked.project, [task], asked.label_config, request_id, 0.0)
        log.info("task %s: its video is tracked, and delivered as a prediction", task.id)
        return self._nothing(asked)

    def _nothing(self, asked: PredictRequest) -> Outcome:
        return Outcome([Prediction(model_version=self._version(asked))])

    def _version(self, asked: PredictRequest) -> str:
        return self._means.version(asked.project)
