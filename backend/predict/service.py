"""What the plug-in does with a request, without HTTP: the Flask front and the label-studio-ml runner both call it."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from backend.errors import BackendError, BadRequest, ConfigError, PromptError
from backend.fetching.pictures import park
from backend.front.metrics import Metrics
from backend.job import JobRequest
from backend.label_studio.access import cloud_path
from backend.label_studio.protocol import Context, LabelStudioTask, Prediction, PredictRequest, Work
from backend.label_studio.uploads import unfinished_version
from backend.labeling.controls import ShapingOptions
from backend.labeling.roles import ImageRoles, Roles, read_roles
from backend.labeling.video_roles import VideoRoles
from backend.predict import notice
from backend.predict.batch import Batches
from backend.predict.dedup import Once
from backend.predict.in_flight import TaskResult
from backend.predict.late_queue import Deliveries
from backend.queueing.dispatcher import Dispatcher
from backend.queueing.queues import BATCH
from backend.settings import Settings
from backend.tasks import drawn
from backend.tasks.answers import Answers
from backend.tasks.plan import PicturePlan, Plan
from backend.tasks.prompts import check_names, read_prompts
from backend.tasks.results import Shaper
from backend.tasks.video_drawn import boxes
from backend.tasks.video_plan import ClipPlan
from backend.tasks.wanted import WantedRegion

log = logging.getLogger(__name__)

_DAY_S = 86_400
_NO_WAY_BACK = "without LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY there is no way to deliver it"
_WINDOW = 8  # tasks in the queue for each worker

TaskAnswer = Prediction | None
"""None where nothing is to be predicted: Label Studio would store even an empty prediction."""


@dataclass
class Outcome:
    """The answer to a /predict.

    Attributes:
        answers: one entry for each task.
        seconds: by stage, of an interactive one.
        late: ids of tasks that were not ready in time.
        shown: the error that the annotator is shown instead of an answer.
    """

    answers: list[TaskAnswer]
    seconds: dict[str, float] = field(default_factory=dict)
    late: tuple[int | None, ...] = ()
    shown: BackendError | None = None


class Service:
    """Answers /predict and /setup; safe to use from many threads."""

    def __init__(self, settings: Settings, dispatcher: Dispatcher, metrics: Metrics) -> None:
        self._settings = settings
        self._dispatcher = dispatcher
        self._metrics = metrics
        self._taste = ShapingOptions(settings.label_threshold, settings.polygon_tolerance, settings.video_tolerance)
        self.board = notice.Board(dispatcher.redis)
        self.deliveries = Deliveries(settings, dispatcher.redis)
        self._batches = Batches(settings, self, dispatcher, self.deliveries)
        self._once = Once(dispatcher.redis, settings.wait_s)
        self.answers = Answers(dispatcher.redis, round(settings.remember_days * _DAY_S))

    def setup(self, label_config: str) -> str:
        """Check a labelling config; the model version. Raises ConfigError with what is missing."""
        read_roles(label_config, self._settings.language)
        return self._dispatcher.model_version()

    def predict(self, asked: PredictRequest, request_id: str) -> Outcome:
        """Answer a /predict of Label Studio. Raises every BackendError there is."""
        roles = read_roles(asked.label_config, self._settings.language)
        context = asked.params.context
        if context is None:
            return self._batch(asked, roles, request_id)
        if not context.result:
            # sent when a page is left: there is nothing to answer, and anything would be inserted
            return Outcome([Prediction(model_version=self._dispatcher.model_version())])
        if len(asked.tasks) != 1:
            raise BadRequest(f"tasks: an interactive request is about one task, this one has {len(asked.tasks)}")
        if context.result[-1].to_name in roles.videos:
            return self._marked(asked, context, roles, request_id)
        try:
            return self._interactive(asked, context, roles, request_id)
        except BackendError as error:
            shown = notice.shown(error, context.result, roles) if self._settings.show_errors else None
            if shown is None:
                raise
            self.board.pinned(asked.project, asked.tasks[0].id)
            return Outcome([Prediction(result=shown, model_version=self._dispatcher.model_version())], shown=error)

    def _interactive(self, asked: PredictRequest, context: Context, roles: Roles, request_id: str) -> Outcome:
        task = asked.tasks[0]
        check_names(context.result, roles)
        # a config may show several pictures: the newest prompt says which one is meant
        image = roles.images[context.result[-1].to_name]
        if not image.geometry:
            raise ConfigError(
                f"the picture {image.name!r} has no control for masks: add <BrushLabels toName={image.name!r}>"
            )
        here = [item for item in context.result if item.to_name == image.name]
        # where boxes are the answer too, accepted ones of the same label come along
        ours = self.answers.get([item.id for item in here if item.id])
        here = [item for item in here if item.id not in ours]
        wishes, negatives = read_prompts(here, self._settings.max_picture_pixels)
        if negatives:
            wishes = [
                drawn.correction(
                    negatives, task, asked.project, image.name, self.answers, self._settings.max_picture_pixels
                )
            ]
        if not wishes:
            return Outcome([Prediction(model_version=self._dispatcher.model_version())])
        self._check_count(wishes)
        whole = bool(image.whole) and not drawn.has_whole(drawn.newest(task), image)
        plan = _plan(image, _picture(task, image.key), wishes, whole=whole)
        begin = time.perf_counter()
        request = self.request(plan, request_id)
        reply = self._dispatcher.run(request)
        shaping = time.perf_counter()
        shaper = Shaper(self._taste)
        plan.shape(reply, shaper)
        self.answers.keep(asked.project, task.id, shaper.remembered)
        end = time.perf_counter()
        self._metrics.observe(reply, end - shaping, end - begin)
        prediction = shaper.prediction(reply.model_version)
        prediction.result += self.board.cleared(asked.project, task.id, image)
        return Outcome([prediction], reply.seconds | {"shape": end - shaping})

    def _marked(self, asked: PredictRequest, context: Context, roles: Roles, request_id: str) -> Outcome:
        """A video's region was relabelled, or one of its texts edited: nothing, since it would be inserted unseen.

        Boxes that are not tracked yet come later as a prediction, which somebody can look at.
        """
        nothing = Outcome([Prediction(model_version=self._dispatcher.model_version())])
        task, video = asked.tasks[0], roles.videos[context.result[-1].to_name]
        context_items = [item.model_dump(exclude_unset=True) for item in context.result]
        drawn = task.model_copy(update={"drafts": [Work(result=context_items)]})
        plans = [plan for plan in self.plans(drawn, roles) if isinstance(plan, ClipPlan) and plan.video == video]
        if not any(plan.ask.objects for plan in plans):
            return nothing
        if task.id is None or not self.deliveries.possible:
            log.info("a marked video is not tracked: %s", _NO_WAY_BACK)
            return nothing
        self.deliveries.expect(asked.project, [drawn], asked.label_config, request_id, 0.0)
        log.info("task %s: its video is tracked, and delivered as a prediction", task.id)
        return nothing

    def _batch(self, asked: PredictRequest, roles: Roles, request_id: str) -> Outcome:
        """Tasks without a prompt: one that was opened, or all that somebody selected."""
        if not asked.tasks:
            return Outcome([])
        plans = [self.plans(task, roles) for task in asked.tasks]
        opened = len(asked.tasks) == 1
        if not any(plan.groups() for mine in plans for plan in mine):
            if opened:
                self._warm(plans[0], request_id)
            return Outcome([None] * len(asked.tasks))
        if not opened:
            return self._collect(asked, plans, roles, request_id)
        # Label Studio asks twice at once when a task is opened, and would store both answers
        first = self._once.begin(_digest(asked, self._dispatcher.model_version()))
        if first is None:
            return Outcome([None])
        with first:
            return self._collect(asked, plans, roles, request_id)

    def plans(self, task: LabelStudioTask, roles: Roles) -> list[Plan]:
        """What a task lacks, by its newest draft or annotation; a plan without groups has nothing to do.

        More regions than one job may have become several jobs.
        """
        result = drawn.newest(task)
        plans: list[Plan] = []
        for image in roles.images.values():
            picture = task.data.get(image.key)
            if not isinstance(picture, str) or not picture.strip():
                continue
            wishes = drawn.unfinished(result, image, self._settings.max_picture_pixels) if image.geometry else []
            propose = image.propose and bool(image.geometry) and not drawn.regions_of(result, image.name)
            whole = bool(image.whole) and not drawn.has_whole(result, image)
            most = self._settings.max_prompts
            if len(wishes) > most:
                log.info("task %s: %d regions lack something, more than %d: several jobs", task.id, len(wishes), most)
            plans.append(_plan(image, _address(task, picture), wishes[:most], propose, whole))
            rest = range(most, len(wishes), most)
            plans += [_plan(image, _address(task, picture), wishes[first : first + most]) for first in rest]
        clips = [self._clip_plan(task, video, result) for video in roles.videos.values()]
        return [*plans, *(plan for plan in clips if plan is not None)]

    def _clip_plan(self, task: LabelStudioTask, video: VideoRoles, result: Sequence[dict[str, Any]]) -> ClipPlan | None:
        address = task.data.get(video.key)
        if not isinstance(address, str) or not address.strip():
            return None
        rate = video.rate(task.data)
        ours = self.answers.get([str(item["id"]) for item in result if item.get("id")])
        tracked = boxes(result, video, rate, ours) if video.rectangle is not None else []
        most = self._settings.max_video_objects
        if len(tracked) > most:
            log.warning("task %s: %d boxes in its video, only the first %d are tracked", task.id, len(tracked), most)
        ask = video.ask().model_copy(update={"objects": tuple(box.asked for box in tracked[:most])})
        if video.whole and not drawn.has_whole(result, video):
            ask = video.ask_whole(ask)
        return ClipPlan(video, _address(task, address), rate, ask)

    def predicted(self, project: str, landing: TaskResult, remember: bool = True) -> TaskAnswer:
        """The prediction of a task whose jobs are over; None where it has none.

        Its regions are remembered for corrections and review, unless there are too many of them (bulk jobs).
        """
        shaper = Shaper(self._taste)
        version = ""
        for plan, reply in landing.replies:
            plan.shape(reply, shaper)
            version = reply.model_version
        if remember:
            self.answers.keep(project, landing.task.id, shaper.remembered)
        prediction = shaper.prediction(version)
        return prediction if prediction.result else None

    def so_far(self, project: str, landing: TaskResult, share: float) -> TaskAnswer:
        """As `predicted`, of a video that is still in work; its version says so, the whole one is delivered later."""
        prediction = self.predicted(project, landing)
        if prediction is None:
            return None
        version = unfinished_version(prediction.model_version, share)
        return prediction.model_copy(update={"model_version": version})

    def window(self) -> int:
        """How many tasks one program may have in the queue: enough that no worker waits for the next."""
        ready = sum(sign.state == "ready" for sign in self._dispatcher.workers())
        return min(_WINDOW * max(1, ready), self._settings.max_waiting)

    def _collect(self, asked: PredictRequest, plans: Sequence[list[Plan]], roles: Roles, request_id: str) -> Outcome:
        answers, late = self._batches.answer(asked, plans, roles, request_id)
        return Outcome(answers, late=tuple(asked.tasks[place].id for place in late))

    def _warm(self, plans: Sequence[Plan], request_id: str) -> None:
        """Have the pictures of an opened task encoded, so that the first click need not wait for it."""
        for plan in plans:
            if not isinstance(plan, PicturePlan):
                continue
            try:
                self._dispatcher.submit(self.request(plan, request_id), BATCH)
            except BackendError as error:
                log.info("not encoded ahead: %s", error.type)

    def request(self, plan: Plan, request_id: str) -> JobRequest:
        """The job of a plan. Raises what is wrong with a picture that came with the task."""
        return JobRequest(
            request_id=request_id,
            picture=park(plan.picture, self._dispatcher.redis, self._settings),
            **plan.asked(),
            max_new_tokens=self._settings.max_new_tokens,
            sent_at=time.time(),
        )

    def _check_count(self, wishes: Sequence[WantedRegion]) -> None:
        if len(wishes) > self._settings.max_prompts:
            raise PromptError(
                f"{len(wishes)} regions in one request, the limit is {self._settings.max_prompts}: accept some"
            )


def _plan(
    image: ImageRoles, picture: str, wishes: Sequence[WantedRegion], propose: bool = False, whole: bool = False
) -> PicturePlan:
    ask = image.ask([wish.prompt.label for wish in wishes], propose) if wishes or propose else None
    return PicturePlan(image, picture, tuple(wishes), ask, image.ask_whole() if whole else None)


def _picture(task: LabelStudioTask, key: str) -> str:
    value = task.data.get(key)
    if not isinstance(value, str) or not value.strip():
        raise BadRequest(
            f"tasks.0.data.{key}: the labelling config reads the picture from there, and the task has "
            f"{', '.join(sorted(task.data)) or 'no data'}"
        )
    return _address(task, value)


def _address(task: LabelStudioTask, value: str) -> str:
    return cloud_path(value.strip(), task.id)


def _digest(asked: PredictRequest, model_version: str) -> str:
    task = asked.tasks[0]
    parts: list[Any] = [asked.project, task.id, task.data, drawn.newest(task), asked.label_config, model_version]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
