"""Label Studio's requests, as far as we read them (Label Studio 1.23; fields we do not use are ignored)."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from backend.errors import BadRequest

Model = TypeVar("Model", bound=BaseModel)
Percent = Annotated[float, Field(allow_inf_nan=False)]


class _Lenient(BaseModel):
    model_config = ConfigDict(extra="ignore")


class RegionValue(_Lenient):
    """Geometry of a region; x, y, width and height are percentages of the picture, rotation is in degrees."""

    x: Percent | None = None
    y: Percent | None = None
    width: Percent | None = None
    height: Percent | None = None
    rotation: Percent = 0.0
    keypointlabels: list[str] = []
    rectanglelabels: list[str] = []
    labels: list[str] = []


class ContextRegion(_Lenient):
    """One region of an interactive request's context: a prompt, or something left over from other tools."""

    id: str | None = None
    type: str
    from_name: str
    to_name: str
    value: RegionValue = RegionValue()
    is_positive: bool | None = None


class Context(_Lenient):
    result: list[ContextRegion] = []


class Params(_Lenient):
    context: Context | None = None


class LabelStudioTask(_Lenient):
    id: int | None = None
    data: dict[str, Any]


class PredictRequest(_Lenient):
    """POST /predict."""

    tasks: list[LabelStudioTask]
    label_config: str
    params: Params = Params()


class SetupRequest(_Lenient):
    """POST /setup; `schema` is the labelling config."""

    label_schema: str = Field(alias="schema")


class WebhookRequest(_Lenient):
    """POST /webhook."""

    action: str


class Prediction(BaseModel):
    """One task's answer; regions in Label Studio's result format, score in 0..1."""

    result: list[dict[str, Any]] = []
    score: float | None = None
    model_version: str


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
