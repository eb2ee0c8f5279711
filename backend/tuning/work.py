"""A project's reviewed work: which regions teach, what each of them says, and what was left out, and why.

A project learns from its own annotations alone. Skipped ones do not teach, nor those that nobody has looked at; ground
truth counts double; where two people disagree about a region's label, that label teaches nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from backend.errors import BackendError, BadRequest
from backend.export.spec import Spec
from backend.export.tasks import Source, Tasks
from backend.label_studio.protocol import Annotation, ResultItem
from backend.label_studio.video_sequences import keyframes_of
from backend.labeling.controls import Control
from backend.labeling.labels import Labels
from backend.labeling.roles import Roles, read_roles
from backend.learning.reviewed import ReviewedRegion, reviewed_regions
from backend.settings import Settings
from model.values.task import Task

GROUND_TRUTH = 2.0

_FIELDS = ("parent_prediction", "ground_truth", "created_at", "lead_time", "updated_by", "completed_by")
"""Of annotations, beside their results: whether somebody has looked at them, who, and when."""


@dataclass(frozen=True)
class Names:
    """A closed set of labels, each with all names that mean it."""

    names: tuple[tuple[str, ...], ...]
    language: str


@dataclass(frozen=True)
class Taught:
    """One region, before its picture was looked at.

    Attributes:
        task: key of its task; number: the task's number, where it has one.
        address: of its picture or video.
        item: with its geometry; of a video a rectangle in percentages.
        time_s: of the frame, in a video; else None.
        label, names: number of its label among these, or None.
        texts: by task and language.
        weight: how much it counts.
    """

    task: str
    number: int | None
    address: str
    item: ResultItem
    time_s: float | None = None
    label: int | None = None
    names: Names | None = None
    texts: Mapping[tuple[Task, str], str] = field(default_factory=dict)
    weight: float = 1.0


class Work:
    """Reads it, task by task.

    Attributes:
        left_out: of regions and tasks that do not teach, how many, by reason.

    Raises (when read): LabelStudioAway, LabelStudioRefused, TaskGone, BadRequest, ConfigError.
    """

    def __init__(self, settings: Settings, spec: Spec, since: datetime | None = None) -> None:
        self._roles = read_roles(spec.label_config, settings.language)
        self._tasks = Tasks(settings, spec, self._roles, _FIELDS)
        self._since = since
        self.left_out: Counter[str] = Counter()

    def regions(self) -> Iterator[Taught]:
        """All regions that teach something."""
        for task in self._tasks.after(-1):
            if task.error is not None:
                self.left_out["tasks that cannot be read"] += 1
                continue
            try:
                yield from self._of_task(task)
            except (BackendError, ValidationError):
                self.left_out["tasks that cannot be read"] += 1

    def _of_task(self, task: Source) -> Iterator[Taught]:
        data = task.raw.get("data")
        works = [Annotation.model_validate(one) for one in task.raw.get("annotations") or [] if isinstance(one, dict)]
        works = [work for work in works if self._counts(work)]
        if not works or not isinstance(data, dict):
            return
        # the newest, or what is marked as true
        chosen = max(works, key=lambda work: (work.ground_truth, _at(work)))
        said = [region for work in works if work is not chosen for region in reviewed_regions([work], task.id)]
        roles = self._roles.of(data)
        for region in reviewed_regions([chosen], task.id):
            disputed = not region.ground_truth and any(
                other.id == region.id and other.labels != region.labels for other in said
            )
            self.left_out["labels that two people disagree about"] += disputed
            found = self._region(task, data, region, roles, disputed)
            if found is not None:
                yield found

    def _counts(self, work: Annotation) -> bool:
        if work.was_cancelled or work.unseen:
            return False
        return self._since is None or _at(work) >= self._since

    def _region(
        self, task: Source, data: Mapping[str, Any], region: ReviewedRegion, roles: Roles, disputed: bool
    ) -> Taught | None:
        if region.of_video:
            video = roles.videos.get(region.image)
            address = video.address(data) if video is not None else None
            frame = _frame(region.shape)
            if video is None or address is None or frame is None:
                return None
            sets, words, known = [(video.rectangle or "", video.labels)], video.words, video.known
            item, time_s = frame[1], (frame[0] - 1) / video.rate(data)
        else:
            image = roles.images.get(region.image)
            image = image.on(region.page) if image is not None else None
            address = image.picture(data) if image is not None else None
            if image is None or address is None:
                self.left_out["regions of pictures that the config no longer has"] += 1
                return None
            sets = [(control.name, control.labels) for control in image.geometry]
            words, known, item, time_s = image.words, image.labels, region.shape, None
        sets = [*sets, *((control.name, control.labels) for control in words)]
        label, names = (None, None) if disputed else self._label(region, sets, known)
        texts = _texts(region, words)
        weight = GROUND_TRUTH if region.ground_truth else 1.0
        return Taught(task.key, task.id, address, item, time_s, label, names, texts, weight)

    def _label(
        self, region: ReviewedRegion, sets: Sequence[tuple[str, Labels]], known: Mapping[str, Labels]
    ) -> tuple[int | None, Names | None]:
        values = [
            value
            for name, labels in region.labels.items()
            for value in (known[name].values_of(labels) if name in known else labels)
        ]
        for name, labels in sets:
            own = region.labels.get(name, ())
            chosen = [label for label in own if label in labels] or list(labels.matching(values))
            chosen = [label for label in chosen if label not in labels.free]
            if chosen:
                candidates = labels.label_set
                place = next(i for i, one in enumerate(candidates.candidates) if one.label == chosen[0])
                return place, Names(tuple(one.names for one in candidates.candidates), candidates.language)
        if values and any(labels for _, labels in sets):
            self.left_out["labels that the config no longer has"] += 1
        return None, None


def since_of(text: str | None) -> datetime | None:
    """What `--since` says, in UTC where it does not say.

    Raises:
        BadRequest: it is no date.
    """
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise BadRequest(f"--since {text!r} is no date: give e.g. 2026-11-01, or 2026-11-01T18:00") from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _at(work: Annotation) -> datetime:
    try:
        found = datetime.fromisoformat(work.updated_at or work.created_at)
    except ValueError:
        return datetime.fromtimestamp(0, UTC)
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _texts(region: ReviewedRegion, words: Sequence[Control]) -> dict[tuple[Task, str], str]:
    found: dict[tuple[Task, str], str] = {}
    for control in words:
        text = region.texts.get(control.name, "").strip()
        if text:
            found |= {(ask.task, ask.language): text for ask in control.texts()}
    return found


def _frame(shape: ResultItem) -> tuple[float, ResultItem] | None:
    """The first frame on which a tracked thing is shown, and its box there; None of an event."""
    for number, shown, x, y, width, height in keyframes_of(shape.value.model_extra or {}):
        if shown and width > 0 and height > 0:
            value = {"x": x, "y": y, "width": width, "height": height}
            return number, ResultItem.model_validate({"id": shape.id, "type": "rectangle", "value": value})
    return None
