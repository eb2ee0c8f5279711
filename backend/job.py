"""What travels through the queue, as JSON: a job's request and its reply."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from model.task import Task

VERSION = 1
"""Of the payload; a worker refuses others."""

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

    Attributes:
        points: clicks that belong to this region.
        box: (x1, y1, x2, y2), or None.
        label: the label that the annotator chose, or None.
    """

    points: tuple[PointPrompt, ...] = ()
    box: tuple[Percent, Percent, Percent, Percent] | None = None
    label: str | None = None


class JobRequest(_Value):
    """One picture, its prompts, and the texts wanted of each region.

    Attributes:
        picture: where the picture is: a URL, a Label Studio path, `file:` path, or `blob:` with the sha256 of bytes
            that were put into Redis.
        sent_at: seconds since the epoch, by the front's clock.
    """

    version: int = VERSION
    request_id: str
    picture: str
    prompts: tuple[RegionPrompt, ...]
    tasks: tuple[Task, ...]
    language: str
    max_new_tokens: int
    sent_at: float


class TextReply(_Value):
    """One text; score is exp(mean log-probability), 0..1."""

    string: str
    score: float


class RegionReply(_Value):
    """One region; mask is COCO compressed RLE of the picture's size, iou is SAM 2's estimate in 0..1."""

    mask: dict[str, Any]
    area: int
    iou: float
    object_score: float
    texts: dict[Task, TextReply]


class JobReply(_Value):
    """The answer to a JobRequest; sizes in pixels, seconds by stage (queue, fetch, encode, segment, describe)."""

    width: int
    height: int
    regions: tuple[RegionReply, ...]
    seconds: dict[str, float]
    model_version: str
    cached: bool
