"""From a task and its labelling config to what is asked of a worker, and from the replies to a prediction.

Pure but for what is remembered of earlier answers, which it is given: no queue, no clock, nothing is counted. A click,
many tasks at once, late delivery, bulk jobs and the label-studio-ml runner share it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from backend.errors import BackendError, BadRequest, ConfigError, PromptError
from backend.job import ClipAsk, JobReply
from backend.label_studio.access import cloud_path
from backend.label_studio.protocol import Annotation, Context, LabelStudioTask, Prediction
from backend.label_studio.regions import regions_of
from backend.labeling.controls import ShapingOptions
from backend.labeling.roles import ImageRoles, Roles
from backend.labeling.video_roles import VideoRoles
from backend.learning.confidence import PLAIN, Confidences
from backend.settings import Settings
from backend.tasks import drawn
from backend.tasks.answers import Memory, Remembered
from backend.tasks.plan import PicturePlan, Plan
from backend.tasks.prompts import check_names, wanted_regions
from backend.tasks.results import Shaper, Words
from backend.tasks.search import Search, Searches
from backend.tasks.video_corrected import corrections
from backend.tasks.video_drawn import boxes
from backend.tasks.video_plan import ClipPlan
from backend.tasks.wanted import WantedRegion

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaskResult:
    """A task whose jobs are all over, or what is known of one that is not.

    Attributes:
        key: as it was submitted under.
        task: as it was planned.
        replies: of each job that succeeded the plan and its reply.
        errors: of each job that did not.
    """

    key: str
    task: LabelStudioTask
    replies: tuple[tuple[Plan, JobReply], ...]
    errors: tuple[BackendError, ...] = ()


@dataclass(frozen=True)
class Shaped:
    """What the replies say in Label Studio's format, what is to be remembered of it, and its words in short.

    Attributes:
        remembered: for corrections and review.
        words: of each region.
    """

    prediction: Prediction
    remembered: tuple[Remembered, ...]
    words: tuple[Words, ...] = ()

    @property
    def stored(self) -> Prediction | None:
        """None where there is nothing: Label Studio would store even an empty prediction."""
        return self.prediction if self.prediction.result else None


class Planner:
    """Plans tasks and shapes their results; safe to use from many threads.

    Args:
        settings: limits and options.
        memory: of what we answered before.
        confidences: what says how sure answers are, by project; None: the defaults of all.
    """

    def __init__(self, settings: Settings, memory: Memory, confidences: Confidences | None = None) -> None:
        self._confidences = confidences
        self._max_picture_pixels = settings.max_picture_pixels
        self._max_prompts = settings.max_prompts
        self._max_video_objects = settings.max_video_objects
        self._options = ShapingOptions(settings.label_threshold, settings.polygon_tolerance, settings.video_tolerance)
        self._memory = memory
        self._searches = Searches(memory, settings.max_picture_pixels, settings.max_prompts)

    def click(self, task: LabelStudioTask, context: Context, project: str, roles: Roles) -> PicturePlan | None:
        """What an interactive request asks about a picture; None where it asks nothing.

        Raises:
            BadRequest, ConfigError, PromptError: task, labelling config and prompts do not go together.
        """
        check_names(context.result, roles)
        # a config may show several pictures: the newest prompt says which one is meant
        image = roles.images[context.result[-1].to_name].on(context.result[-1].item_index)
        if not image.geometry:
            raise ConfigError(
                f"the picture {image.name!r} has no control for masks: add <BrushLabels toName={image.name!r}>"
            )
        here = [item for item in context.result if image.has(item)]
        search = self._searches.of_click(here, image, task, project)
        if search is not None:
            return self._search_plan(search, image, _picture(task, image))
        # where boxes are the answer too, accepted ones of the same label come along
        ours = self._memory.get([item.id for item in here if item.id])
        here = [item for item in here if item.id not in ours]
        wanted, negatives = wanted_regions(here, image, self._max_picture_pixels)
        if negatives:
            wanted = [drawn.correction(negatives, task, project, image, self._memory, self._max_picture_pixels)]
        if not wanted:
            return None
        if len(wanted) > self._max_prompts:
            raise PromptError(f"{len(wanted)} regions in one request, the limit is {self._max_prompts}: accept some")
        whole = bool(image.whole) and not drawn.has_whole(drawn.newest(task), image)
        prompts = [item.id for item in here if item.id]
        # others have an id that is new
        for corrected in self._memory.get([region.id for region in wanted]).values() if negatives else ():
            prompts += corrected.prompts  # what made the region made what becomes of it, too
        plan = _plan(image, _picture(task, image), wanted, whole=whole)
        return replace(plan, prompts=tuple(dict.fromkeys(prompts)))

    def _search_plan(self, search: Search, image: ImageRoles, picture: str) -> PicturePlan:
        group = image.ask_find(search.ask, search.labels)
        return PicturePlan(image, picture, prompts=search.prompts, searches=((search, group),))

    def plans(self, task: LabelStudioTask, roles: Roles) -> list[Plan]:
        """What a task lacks, by its newest draft or annotation; a plan without groups has nothing to do.

        More regions than one job may have become several jobs.
        """
        roles = roles.of(task.data)
        result = self._decided(drawn.newest(task), task.id)
        plans: list[Plan] = []
        for image in [page for shown in roles.images.values() for page in shown.pages(task.data)]:
            picture = image.picture(task.data)
            if picture is None:
                continue
            wanted = drawn.unfinished(result, image, self._max_picture_pixels) if image.geometry else []
            propose = image.propose and bool(image.geometry) and not regions_of(result, image)
            whole = bool(image.whole) and not drawn.has_whole(result, image)
            most = self._max_prompts
            if len(wanted) > most:
                log.info("task %s: %d regions lack something, more than %d: several jobs", task.id, len(wanted), most)
            plan = _plan(image, _address(task, picture), wanted[:most], propose, whole)
            if image.looked_for and image.geometry and (image.everywhere or not regions_of(result, image)):
                searches = self._searches.of_kinds(image, task)
                found = tuple((search, image.ask_find(search.ask, search.labels)) for search in searches)
                plan = replace(plan, searches=found)
            plans.append(plan)
            rest = range(most, len(wanted), most)
            plans += [_plan(image, _address(task, picture), wanted[first : first + most]) for first in rest]
        clips = [plan for video in roles.videos.values() for plan in self._clip_plans(task, video, result)]
        return [*plans, *clips]

    def lacks_marks(self, task: LabelStudioTask, roles: Roles) -> bool:
        """Whether the config is about regions that people mark, and nobody has marked one in this task."""
        roles = roles.of(task.data)
        result = self._decided(drawn.newest(task), task.id)
        pictures = [image for image in roles.images.values() if image.geometry]
        videos = [video.name for video in roles.videos.values() if video.rectangle is not None]
        if any(image.propose or image.looked_for for image in pictures) or not (pictures or videos):
            return False
        return not any(regions_of(result, image) for image in pictures) and not any(
            item.get("to_name") in videos for item in result
        )

    def marked(self, task: LabelStudioTask, context: Context, roles: Roles) -> LabelStudioTask | None:
        """The task with what was just marked in one of its videos; None where nothing of that is to be tracked."""
        video = roles.videos[context.result[-1].to_name]
        items = [item.model_dump(exclude_unset=True) for item in context.result]
        task = task.model_copy(update={"annotations": [], "drafts": [Annotation(result=items)]})
        mine = [plan for plan in self.plans(task, roles) if isinstance(plan, ClipPlan) and plan.video == video]
        # what was corrected is tracked on once it is saved
        return task if any(plan.ask.objects and not plan.corrected for plan in mine) else None

    def _decided(self, result: Sequence[dict[str, Any]], task: int | None) -> list[dict[str, Any]]:
        """Without the prompts of suggestions that nobody decided on: they are no work."""
        prompts = self._memory.prompted(task, [str(item["id"]) for item in result if item.get("id")])
        return [item for item in result if str(item.get("id")) not in prompts]

    def address(self, task: LabelStudioTask, video: VideoRoles) -> str:
        """Of a task's video. Raises BadRequest where the task has none."""
        found = video.address(task.data)
        if found is None:
            raise BadRequest(f"the task has no data.{video.key}: the labelling config reads the video from there")
        return _address(task, found)

    def _clip_plans(self, task: LabelStudioTask, video: VideoRoles, result: Sequence[dict[str, Any]]) -> list[ClipPlan]:
        """What is asked of a video: what was drawn in it, and what was corrected."""
        address = video.address(task.data)
        if address is None:
            return []
        rate = video.rate(task.data)
        ours = self._memory.get([str(item["id"]) for item in result if item.get("id")])
        tracked = boxes(result, video, rate, ours) if video.rectangle is not None else []
        most = self._max_video_objects
        if len(tracked) > most:
            log.warning("task %s: %d boxes in its video, only the first %d are tracked", task.id, len(tracked), most)
        ask = video.ask().model_copy(update={"objects": tuple(box.asked for box in tracked[:most])})
        if video.whole and not drawn.has_whole(result, video):
            ask = video.ask_whole(ask)
        plans = [ClipPlan(video, _address(task, address), rate, ask)]
        moved = corrections(result, video, rate, ours)[:most] if video.rectangle is not None else []
        if moved:
            onward = ClipAsk(objects=tuple(one.asked for one in moved), direction="forward")
            drawn_now = {box.id for box in tracked}
            saved = [one for one in result if one.get("id") and one.get("to_name") == video.name]
            saved = [one for one in saved if str(one["id"]) not in drawn_now and isinstance(one.get("value"), dict)]
            plans.append(ClipPlan(video, plans[0].picture, rate, onward, tuple(moved), tuple(saved)))
        return plans

    def shape(self, replies: Iterable[tuple[Plan, JobReply]], project: str = "") -> Shaped:
        """The prediction that the replies to a task's plans make; the project says how sure they are taken to be."""
        shaper = Shaper(self._options, PLAIN if self._confidences is None else self._confidences.of(project))
        version = ""
        for plan, reply in replies:
            plan.shape(reply, shaper)
            version = reply.model_version
        remembered = tuple(one.model_copy(update={"version": version}) for one in shaper.remembered)
        return Shaped(shaper.prediction(version), remembered, tuple(shaper.words))


def _plan(
    image: ImageRoles, picture: str, wanted: Sequence[WantedRegion], propose: bool = False, whole: bool = False
) -> PicturePlan:
    ask = image.ask([region.prompt.labels for region in wanted], propose) if wanted or propose else None
    return PicturePlan(image, picture, tuple(wanted), ask, image.ask_whole() if whole else None)


def _picture(task: LabelStudioTask, image: ImageRoles) -> str:
    value = image.picture(task.data)
    if value is None and image.page:
        raise BadRequest(f"the prompt is on picture {image.page + 1} of data.{image.key}, which has no such picture")
    if value is None:
        raise BadRequest(
            f"tasks.0.data.{image.key}: the labelling config reads the picture from there, and the task has "
            f"{', '.join(sorted(task.data)) or 'no data'}"
        )
    return _address(task, value)


def _address(task: LabelStudioTask, value: str) -> str:
    return cloud_path(value.strip(), task.id)
