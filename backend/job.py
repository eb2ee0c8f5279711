"""What travels through the queue, as JSON: a job's request and its reply."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from model import TokenLimits
from model.values.task import Task

VERSION = 7
"""Of the payload, to be raised with each change of it; a worker puts others back (`parked`)."""

FUNCTION = "backend.engine.perform"
"""The only function that workers run, whatever a job in Redis says; not to be changed, see there."""

PATH = "\x1f"
"""Between the parts of a nested label's path; XML has no such character."""

Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PointPrompt(_Value):
    """A click: percentages of the picture's width and height; inside or outside the region."""

    x: Percent
    y: Percent
    positive: bool = True


class Drawing(_Value):
    """A region as Label Studio has it: its kind (polygon, rectangle …) and its value.

    Where the picture's size is not known yet: the worker makes the mask or the box at that size.
    """

    kind: str
    value: dict[str, Any]


class RegionPrompt(_Value):
    """One region's prompt, in percentages of the picture.

    Points, a box, both; or a mask, which is then the region itself; or a mask with negative points, which are cut out
    of it; or a drawing, which then stands for the box or the mask.

    Attributes:
        points: clicks that belong to this region.
        box: (x1, y1, x2, y2), or None.
        mask: RLE of the picture's size as `model.values.mask.to_rle` makes it, or None.
        drawing: instead of a box or a mask, or None.
        labels: that the annotator chose, by their values in the config.
    """

    points: tuple[PointPrompt, ...] = ()
    box: tuple[Percent, Percent, Percent, Percent] | None = None
    mask: dict[str, Any] | None = None
    drawing: Drawing | None = None
    labels: tuple[str, ...] = ()


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


class Example(_Value):
    """A region that stands for a kind; of the job's own picture, or of another one."""

    prompt: RegionPrompt
    picture: str | None = None


class FindAsk(_Value):
    """All things of a kind in the picture.

    Attributes:
        texts: names of the kind, in any of which it may be meant.
        like: examples of it; there are texts or examples, or both.
        unlike: what only looks like it.
        known: regions that are there already, and not to be answered.
        limit: regions at most.
    """

    texts: tuple[str, ...] = ()
    like: tuple[Example, ...] = ()
    unlike: tuple[Example, ...] = ()
    known: tuple[RegionPrompt, ...] = ()
    limit: Annotated[int, Field(ge=1)] = 64


class Group(_Value):
    """Regions of one picture that are asked the same questions.

    Attributes:
        prompts: one region each.
        propose: the model finds the regions itself; then there are no prompts.
        find: what the model looks for; then there are no prompts either.
        texts: wanted of each region.
        label_sets: of each, the model chooses one label for each region.
        features: what each region looks like is wanted, as numbers.
    """

    prompts: tuple[RegionPrompt, ...] = ()
    propose: bool = False
    find: FindAsk | None = None
    features: bool = False
    texts: tuple[TextAsk, ...] = ()
    label_sets: tuple[LabelSet, ...] = ()


class ClipMark(_Value):
    """Where a person saw a thing: seconds from the video's beginning, a box or clicks in percentages of the picture.

    A turned box is a drawing: what is upright around it depends on the picture's size.
    """

    time_s: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    box: tuple[Percent, Percent, Percent, Percent] | None = None
    drawing: Drawing | None = None
    points: tuple[PointPrompt, ...] = ()


class ClipObject(_Value):
    """One thing to follow; `labels` are what the annotator chose for it, by their values in the config."""

    marks: tuple[ClipMark, ...]
    labels: tuple[str, ...] = ()


class ClipAsk(_Value):
    """What is wanted of a video.

    Attributes:
        objects: to be tracked and described.
        texts: wanted of each object; a caption is one of the clip, the others are about the first marked picture.
        label_sets: of each, the model chooses one label for each object.
        events: the language of captions of what each object does by and by; None: they are not wanted.
        event_labels: of which the model chooses one for each event.
        whole: texts wanted of the whole video.
        whole_sets: label sets of the whole video.
        direction: objects are tracked from their first mark to the end, from their last one to the beginning, or both.
        live: an annotator waits for each frame: masks are in the reply, it comes soon, and the video stays at hand.
        frame_rate: frames a second that are looked at; None: as the worker is set.
        most_frames: that are tracked in each direction, the marked one among them; None: all.
        looks: marked things of which only is wanted what they look like, each on its own frame.
        warm: when the frames are shown that are only to be encoded, for who asks about them next; seconds.
        part: a long video is worked on in several jobs, one after another; this is the number of the job.
    """

    objects: tuple[ClipObject, ...] = ()
    texts: tuple[TextAsk, ...] = ()
    label_sets: tuple[LabelSet, ...] = ()
    events: str | None = None
    event_labels: LabelSet | None = None
    whole: tuple[TextAsk, ...] = ()
    whole_sets: tuple[LabelSet, ...] = ()
    direction: Literal["both", "forward", "backward"] = "both"
    live: bool = False
    frame_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    most_frames: Annotated[int, Field(ge=1)] | None = None
    looks: tuple[ClipMark, ...] = ()
    warm: tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...] = ()
    part: int = 0


class JobRequest(_Value):
    """One picture or video and what is wanted of it; a picture without groups is only encoded, for the first click.

    Attributes:
        picture: where the picture or video is: a URL, a Label Studio path, `file:` path, or `blob:` with the name of
            bytes that were put into Redis.
        limits: of each text, in tokens.
        adapter: the version that answers, its name and a digest (`project-7.3#0a1b2c3d`); empty: the base.
        sent_at: seconds since the epoch, by the front's clock.
        alone: not to be computed in one step with others: it may be what killed a worker.
        memory: of the project's labels that judges beside the model, `number@version`; empty: the model alone.
        look: what the whole picture looks like is wanted, as numbers.
    """

    version: int = VERSION
    request_id: str
    picture: str
    groups: tuple[Group, ...] = ()
    clip: ClipAsk | None = None
    limits: TokenLimits = TokenLimits()
    adapter: str = ""
    sent_at: float
    alone: bool = False
    memory: str = ""
    look: bool = False


class FitRequest(_Value):
    """A run of `fit` that a worker begins beside itself: of which project, and the name of the run."""

    project: int
    job: str


class TextReply(_Value):
    """One text; score is exp(mean log-probability), 0..1; finished is False where it was cut at its limit of tokens."""

    string: str
    score: float
    finished: bool = True


class LabelReply(_Value):
    """The likeliest label of a set.

    Attributes:
        probability: among the set's labels, 0..1.
        margin: by how much it is above the next one's, 0..1.
        memory: the part of the probability that the label memory gave, 0..1; None where it was not asked.
    """

    label: str
    probability: float
    margin: float = 1.0
    memory: float | None = None

    @property
    def from_memory(self) -> bool:
        """Whether it is the label memory's more than the model's."""
        return self.memory is not None and 2 * self.memory > self.probability


class RegionReply(_Value):
    """One region.

    Attributes:
        mask: RLE of the picture's size as `model.values.mask.to_rle` makes it.
        area: pixels.
        iou: SAM 2's estimate, 0..1; of what was looked for how sure it is that this is one.
        stability: IoU of the mask with its logits' threshold at 1 and at -1, 0..1.
        texts: by `TextAsk.key`.
        labels: one for each label set of the group, in their order.
        features: float16 little-endian in base64; empty where they were not asked.
    """

    mask: dict[str, Any]
    area: int
    iou: float
    object_score: float
    stability: float = 1.0
    texts: dict[str, TextReply] = {}
    labels: tuple[LabelReply, ...] = ()
    features: str = ""


class EventReply(_Value):
    """What an object does for a while, from a time until before another, seconds from the video's beginning.

    `label` is that of `event_labels`, if there are any.
    """

    start_s: float
    end_s: float
    caption: TextReply
    label: LabelReply | None = None


Sighting = tuple[float, tuple[float, float, float, float] | None]
"""When (seconds), and where: (x1, y1, x2, y2) in percentages of the picture, None where the thing is not seen."""


class ObjectReply(_Value):
    """One object of a video.

    Attributes:
        sightings: by time, on the frames that were tracked so far.
        iou: mean of SAM 2's estimates where it is seen, 0..1.
        texts, labels: as of a RegionReply; empty before tracking is over.
        events: so far.
        masks: of a live ask, those frames on which the thing is seen: seconds, and the mask as of a RegionReply.
    """

    sightings: tuple[Sighting, ...]
    iou: float
    texts: dict[str, TextReply] = {}
    labels: tuple[LabelReply, ...] = ()
    events: tuple[EventReply, ...] = ()
    masks: tuple[tuple[float, dict[str, Any]], ...] = ()


class ClipReply(_Value):
    """The answer to a ClipAsk.

    Attributes:
        duration_s: of the video, as players show it.
        objects: as asked.
        texts, labels: of the whole video.
        features: one for each of the ask's looks, as of a RegionReply; empty where it is not to be had.
        share: how much of the work is done, 0..1.
        done: False where another job (`part` + 1) has to go on.
        worker: that has the work in hand, and goes on quickest.
    """

    duration_s: float
    objects: tuple[ObjectReply, ...] = ()
    texts: dict[str, TextReply] = {}
    labels: tuple[LabelReply, ...] = ()
    features: tuple[str, ...] = ()
    share: float = 1.0
    done: bool = True
    worker: str = ""


class JobReply(_Value):
    """The answer to a JobRequest; sizes in pixels, seconds by stage (queue, fetch, encode, segment, describe).

    `groups` holds the regions of each group of the request, `clip` the answer about a video, `features` what the
    picture looks like where that was asked (see `learning.packing`).
    """

    width: int
    height: int
    groups: tuple[tuple[RegionReply, ...], ...]
    seconds: dict[str, float]
    model_version: str
    cached: bool
    clip: ClipReply | None = None
    features: str = ""
