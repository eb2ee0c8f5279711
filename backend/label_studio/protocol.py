"""Label Studio's requests, as far as we read them (Label Studio 1.23; fields we do not use are ignored)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from backend.errors import BadRequest

Model = TypeVar("Model", bound=BaseModel)
Count = Annotated[int, BeforeValidator(lambda value: 0 if value is None else value)]
Score = Annotated[float | None, BeforeValidator(lambda value: value if isinstance(value, int | float) else None)]
Percent = Annotated[float, Field(allow_inf_nan=False)]


class _Lenient(BaseModel):
    model_config = ConfigDict(extra="ignore")


class RegionValue(BaseModel):
    """A region's value; x, y, width, height and radii are percentages of the picture, rotation is in degrees.

    What only some kinds have (rle, points, vertices, text …) stays in `model_extra`.
    """

    model_config = ConfigDict(extra="allow")

    x: Percent | None = None
    y: Percent | None = None
    width: Percent | None = None
    height: Percent | None = None
    radiusX: Percent | None = None  # Label Studio's own spelling
    radiusY: Percent | None = None
    rotation: Percent = 0.0


class ResultItem(_Lenient):
    """One item of a result: a prompt, or a part of a region that somebody made. Relations have no from_name."""

    id: str | None = None
    type: str
    from_name: str = ""
    to_name: str = ""
    value: RegionValue = RegionValue()
    is_positive: bool | None = None
    origin: str = ""
    original_width: Count = 0
    original_height: Count = 0
    item_index: Count = 0
    score: Score = None

    @model_validator(mode="before")
    @classmethod
    def _positive(cls, item: Any) -> Any:
        # the Enterprise editor says it in the value
        if isinstance(item, dict) and isinstance(item.get("value"), dict) and "is_positive" not in item:
            said = item["value"].get("positive")
            return item | {"is_positive": said} if isinstance(said, bool) else item
        return item

    @property
    def sized(self) -> bool:
        """Whether it says how large its picture is; what other tools make often does not."""
        return self.original_width > 0 and self.original_height > 0

    @property
    def aspect(self) -> float:
        """Width / height of its picture; 1 where it does not say."""
        return self.original_width / self.original_height if self.sized else 1.0

    def labels(self) -> list[str]:
        """The labels under the item's own type, or under `labels` (a <Labels> tag); not those of leftovers."""
        more = self.value.model_extra or {}
        for key in (self.type, "labels"):
            found = more.get(key)
            if isinstance(found, list) and found:
                return [str(label) for label in found]
        return []


class Context(_Lenient):
    """The prompts of an interactive request; what is besides comes from the Enterprise editor (`editor.py`)."""

    result: list[ResultItem] = []
    event: str = ""
    frame: int | None = None
    time_ms: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    window: int = 1
    direction: str = "forward"
    max_frames: int | None = None
    max_duration_ms: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    session_id: str = ""

    @model_validator(mode="before")
    @classmethod
    def _nulls_are_absent(cls, value: Any) -> Any:
        return {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value

    @property
    def from_editor(self) -> bool:
        """Whether it is of the Enterprise editor's protocol."""
        return bool(self.event) or self.frame is not None or self.time_ms is not None


class Params(_Lenient):
    context: Context | None = None


class Annotation(_Lenient):
    """An annotation, or the draft of one: what somebody has made of a task."""

    id: int | None = None
    task: int | None = None
    result: list[dict[str, Any]] = []
    was_cancelled: bool = False
    lead_time: Any = None
    updated_by: Any = None
    completed_by: Any = None
    ground_truth: bool = False
    parent_prediction: Any = None
    created_at: str = ""
    updated_at: str = ""

    @property
    def unseen(self) -> bool:
        """Whether *Create Annotations From Predictions* made it, and nobody has edited it since."""
        return self.parent_prediction is not None and self.lead_time is None and self.updated_by is None

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        # fields that Label Studio leaves null for drafts mean what their absence means
        return {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value


def _objects(value: Any) -> Any:
    # exports may have the numbers of annotations and drafts in place of these
    return [one for one in value if not isinstance(one, int)] if isinstance(value, list) else value


Works = Annotated[list[Annotation], BeforeValidator(_objects)]


class LabelStudioTask(_Lenient):
    id: int | None = None
    data: dict[str, Any]
    annotations: Works = []
    drafts: Works = []


class PredictRequest(_Lenient):
    """POST /predict."""

    tasks: list[LabelStudioTask]
    label_config: str
    project: Annotated[str, BeforeValidator(lambda value: "" if value is None else str(value))] = ""
    params: Params = Params()


class SetupRequest(_Lenient):
    """POST /setup; `schema` is the labelling config, `project` its number and when it was made."""

    project: Annotated[str, BeforeValidator(lambda value: "" if value is None else str(value))] = ""
    label_schema: str = Field(alias="schema")


class _Numbered(_Lenient):
    id: int | None = None


START_TRAINING = "START_TRAINING"
"""The action of the button of that name."""


def _numbered(value: Any) -> Any:
    # whatever else an event may carry under these names is not ours
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


Gone = Annotated[list[_Numbered], BeforeValidator(_numbered)]


ACTIONS = frozenset(
    f"{what}_{done}"
    for what, all_done in {
        "PROJECT": ("CREATED", "UPDATED", "DELETED"),
        "TASKS": ("CREATED", "DELETED"),
        "ANNOTATION": ("CREATED", "UPDATED"),
        "ANNOTATIONS": ("CREATED", "DELETED"),
        "LABEL_LINK": ("CREATED", "UPDATED", "DELETED"),
    }.items()
    for done in all_done
) | {START_TRAINING}
"""What Label Studio 1.23 sends webhooks about."""


class WebhookRequest(_Lenient):
    """POST /webhook; annotation events carry the annotation, or a list of them.

    Attributes:
        annotations, tasks: those that are gone, by their numbers alone.
    """

    action: str
    annotation: Annotation | list[Annotation] | None = None
    annotations: Gone = []
    tasks: Gone = []
    project: _Numbered | None = None


class TrainRequest(_Lenient):
    """POST /train, as Label Studio sends it where its webhooks are off; annotations are read through its API."""

    project: Annotated[str, BeforeValidator(lambda value: "" if value is None else str(value))] = ""


class JobStatusRequest(_Lenient):
    """POST /job_status; `job` as /train or the webhook named it."""

    job: Annotated[str, BeforeValidator(lambda value: "" if value is None else str(value))] = ""


class Prediction(BaseModel):
    """One task's answer; regions in Label Studio's result format, score in 0..1.

    `cluster` is the number of a group of tasks that look alike; only what is stored through the API can have one.
    """

    result: list[dict[str, Any]] = []
    score: float | None = None
    model_version: str
    cluster: int | None = None

    def to_wire(self) -> dict[str, Any]:
        """As JSON values; without a score where there is none. The result is not copied: masks are long lists."""
        known = {"score": self.score} if self.score is not None else {}
        return {"result": self.result, "model_version": self.model_version, **known}


def parse(model: type[Model], body: Any) -> Model:
    """Validate a request's body.

    Raises:
        BadRequest: names the first field that is missing or wrong.
    """
    if not isinstance(body, dict):
        raise BadRequest("the body must be a JSON object")
    try:
        return model.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the body"
        more = f" ({error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise BadRequest(f"{where}: {first['msg']}{more}") from None


def items_of(result: Sequence[dict[str, Any]]) -> list[ResultItem]:
    """The items of an annotation or a draft that can be read; what others wrote there must not stop a click."""
    items = []
    for raw in result:
        try:
            items.append(ResultItem.model_validate(raw))
        except ValidationError:
            continue
    return items
