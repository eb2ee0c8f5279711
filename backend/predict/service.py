"""What the plug-in does with a request, without HTTP: the Flask front and the label-studio-ml runner both call it."""

from __future__ import annotations

from backend.label_studio.protocol import PredictRequest
from backend.labeling.roles import read_roles
from backend.predict.batch import Batches
from backend.predict.click import Clicks
from backend.predict.late_queue import LateQueue
from backend.predict.lost import LostSuggestions
from backend.predict.notice import Board
from backend.predict.outcome import Outcome
from backend.queueing.dispatcher import Dispatcher
from backend.settings import Settings
from backend.tasks.answers import Answers
from backend.tasks.planner import Planner


class Service:
    """Answers /predict and /setup; safe to use from many threads.

    Attributes:
        answers: the memory of what was answered.
        lost: suggestions that were submitted before anybody decided on them.
    """

    def __init__(self, settings: Settings, dispatcher: Dispatcher) -> None:
        self._language = settings.language
        self._dispatcher = dispatcher
        self.answers = Answers.of(settings, dispatcher.redis)
        self.lost = LostSuggestions(dispatcher.redis, self.answers)
        planner = Planner(settings, self.answers)
        board, late = Board(dispatcher.redis), LateQueue(settings, dispatcher.redis)
        self._clicks = Clicks(settings, dispatcher, planner, self.answers, board, self.lost, late)
        self._batches = Batches(settings, dispatcher, planner, self.answers, board, late)

    def setup(self, label_config: str) -> str:
        """Check a labelling config; the model version. Raises ConfigError with what is missing."""
        read_roles(label_config, self._language)
        return self._dispatcher.model_version()

    def predict(self, asked: PredictRequest, request_id: str) -> Outcome:
        """Answer a /predict of Label Studio. Raises every BackendError there is."""
        roles = read_roles(asked.label_config, self._language)
        context = asked.params.context
        if context is None:
            return self._batches.predict(asked, roles, request_id)
        if len(asked.tasks) == 1:
            roles = roles.of(asked.tasks[0].data)
        return self._clicks.predict(asked, context, roles, request_id)
