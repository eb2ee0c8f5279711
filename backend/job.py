"""What travels through the queue, as JSON: a job's request and its reply."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from model.task import Task

VERSION = 3
"""Of the payload, to be raised with each change of it; a worker puts others back (`parked`)."""

FUNCTION = "backend.engine.perform"
"""The only function that workers run, whatever a job in Redis says."""

Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PointPrompt(_Value):
    """A click: percentages of the picture's width and height; inside or outside the region."""

    x: Percent
    y: Percent
    positive: bool = True


class RegionPrompt(_Value):
    """One region's prompt, in percentages of the picture.

    Points, a box, both; or a mask, which is then the region itself; or a mask with negative points, which are cut out
    of it.

    Attributes:
        points: clicks that belong to this region.
        box: (x1, y1, x2, y2), or None.
        mask: RLE of the picture's size as `model.mask.to_rle` makes it, or None.
        label: the label that the annotator chose, or None.
    """

    points: tuple[PointPrompt, ...] = ()
    box: tuple[Percent, Percent, Percent, Percent] | None = None
    mask: dict[str, Any] | None = None
    label: str | None = None


class TextAsk(_Value):
    """One text wanted of each region; language en or zh."""

    task: Task
    language: str = "en"

    @property
    def key(self) -> str:
        """Under which the reply has it."""
        return f"{self.task.value}.{self.language}"


class Candidate(_Value):
    """One label of a closed set, with all words that mean it."""

    label: str
    names: tuple[str, ...]


class LabelSet(_Value):
    """A closed set of labels, of which the model chooses; language of their names."""

    candidates: tuple[Candidate, ...]
    language: str = "en"


class Group(_Value):
    """Regions of one picture that are asked the same questions.

    Attributes:
        prompts: one region each.
        propose: the model finds the regions itself; then there are no prompts.
        texts: wanted of each region.
        label_sets: of each, the model chooses one label for each region.
    """

    prompts: tuple[RegionPrompt, ...] = ()
    propose: bool = False
    texts: tuple[TextAsk, ...] = ()
    label_sets: tuple[LabelSet, ...] = ()


class JobRequest(_Value):
    """One picture and what is wanted of it; without groups it is only encoded, to be warm for the first click.

    Attributes:
        picture: where the picture is: a URL, a Label Studio path, `file:` path, or `blob:` with the sha256 of bytes
            that were put into Redis.
        sent_at: seconds since the epoch, by the front's clock.
        alone: not to be computed in one step with others: it may be what killed a worker.
    """

    version: int = VERSION
    request_id: str
    picture: str
    groups: tuple[Group, ...] = ()
    max_new_tokens: int
    sent_at: float
    alone: bool = False


class TextReply(_Value):
    """One text; score is exp(mean log-probability), 0..1."""

    string: str
    score: float


class LabelReply(_Value):
    """The likeliest label of a set; probability among the set's labels, 0..1."""

    label: str
    probability: float


class RegionReply(_Value):
    """One region.

    Attributes:
        mask: RLE of the picture's size as `model.mask.to_rle` makes it.
        area: pixels.
        iou: SAM 2's estimate, 0..1.
        texts: by `TextAsk.key`.
        labels: one for each label set of the group, in their order.
    """

    mask: dict[str, Any]
    area: int
    iou: float
    object_score: float
    texts: dict[str, TextReply] = {}
    labels: tuple[LabelReply, ...] = ()


class JobReply(_Value):
    """The answer to a JobRequest; sizes in pixels, seconds by stage (queue, fetch, encode, segment, describe).

    `groups` holds the regions of each group of the request.
    """

    width: int
    height: int
    groups: tuple[tuple[RegionReply, ...], ...]
    seconds: dict[str, float]
    model_version: str
    cached: bool
