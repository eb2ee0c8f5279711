"""What the plug-in does with a request, without HTTP: the Flask front and the label-studio-ml runner both call it."""

from __future__ import annotations

import logging

from backend.errors import ConfigError
from backend.label_studio.protocol import Prediction, PredictRequest, WebhookRequest
from backend.labeling.roles import read_roles
from backend.learning.confidence import Confidences
from backend.learning.memory import LabelMemory
from backend.predict import notice
from backend.predict.batch import Batches
from backend.predict.click import Clicks
from backend.predict.config_notes import ConfigNotes
from backend.predict.corrected import CorrectedTracks
from backend.predict.editor import Editor
from backend.predict.lesson_queue import LessonQueue
from backend.predict.lost import LostSuggestions
from backend.predict.means import Means
from backend.predict.outcome import Outcome
from backend.predict.sending import version_of
from backend.queueing.dispatcher import Dispatcher
from backend.settings import Settings

log = logging.getLogger(__name__)


def preload() -> None:
    """Import what the first request would else wait for: what reads configs, looks at masks, and compares reviews."""
    import rapidfuzz.distance  # noqa: F401

    import model.values.mask  # noqa: F401

    read_roles(
        '<View><Image name="i" value="$i"/><BrushLabels name="m" toName="i"><Label value="a"/></BrushLabels></View>'
    )


class Service:
    """Answers /predict and /setup; safe to use from many threads.

    Attributes:
        answers: the memory of what was answered.
        lost: suggestions that were submitted before anybody decided on them.
        corrected: tracked regions that were corrected.
        configs: what is wrong with the labelling configs of projects.
        memory: of what projects' labels look like.
        confidences: what people kept of answers that were so sure.
    """

    def __init__(self, settings: Settings, dispatcher: Dispatcher) -> None:
        self._settings = settings
        self._language = settings.language
        self._show_errors = settings.show_errors
        self._dispatcher = dispatcher
        means = Means.of(settings, dispatcher)
        self.answers = means.answers
        self.lost = LostSuggestions(dispatcher.redis, self.answers)
        self.corrected = CorrectedTracks(settings, self.answers)
        self.configs = ConfigNotes(dispatcher.redis)
        self._lessons = LessonQueue(dispatcher.redis, settings)
        self.memory = LabelMemory(dispatcher.redis, settings)
        self.confidences = Confidences(dispatcher.redis, settings.learn_confidence)
        self._clicks = Clicks(means, self.lost)
        self._batches = Batches(means)
        self._editor = Editor(means)

    def setup(self, label_config: str, project: str = "") -> str:
        """Check a labelling config and note what is wrong with it; the model version.

        It is taken all the same: of a backend that refuses one, Label Studio shows "400" and nothing else.
        """
        fault = None
        try:
            read_roles(label_config, self._language)
        except ConfigError as error:
            fault = error
        if text := self.configs.see(project, label_config, fault):
            log.warning("the labelling config of project %s: %s", ascii(project), ascii(text))
        return version_of(project, self._settings, self._dispatcher.redis)

    def learn(self, event: WebhookRequest) -> None:
        """Note what an event has to teach; what was learned of a project that is gone is dropped."""
        self._lessons.take(event)
        if event.action == "PROJECT_DELETED" and event.project is not None and event.project.id is not None:
            self._lessons.drop(event.project.id)
            self.memory.forget(event.project.id)

    def predict(self, asked: PredictRequest, request_id: str) -> Outcome:
        """Answer a /predict of Label Studio. Raises every BackendError there is."""
        try:
            roles = read_roles(asked.label_config, self._language)
        except ConfigError as error:
            return self._faulty(asked, error)
        context = asked.params.context
        if context is None:
            return self._batches.predict(asked, roles, request_id)
        if len(asked.tasks) == 1:
            roles = roles.of(asked.tasks[0].data)
        if context.from_editor and (roles.videos or context.event not in ("", "predict")):
            return self._editor.predict(asked, context, roles, request_id)
        return self._clicks.predict(asked, context, roles, request_id)

    def _faulty(self, asked: PredictRequest, fault: ConfigError) -> Outcome:
        """A message to the annotator, at each click and in the first task that is opened; else the fault is raised."""
        version = version_of(asked.project, self._settings, self._dispatcher.redis)
        self.configs.see(asked.project, asked.label_config, fault)
        context, told = asked.params.context, None
        if self._show_errors and context is not None and context.result:
            shown = notice.of_config(asked.label_config, fault)
            told = Prediction(result=shown, model_version=version) if shown is not None else None
        elif self._show_errors and context is None and len(asked.tasks) == 1:
            told = self.configs.tell(asked.project, asked.label_config, fault, version)
        if told is None:
            raise fault
        return Outcome([told], shown=fault)
