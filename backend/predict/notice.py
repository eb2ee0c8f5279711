"""Errors in a form that the annotator sees: Label Studio shows nothing of a failed request but a spinner that stops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis

from backend.errors import BackendError
from backend.label_studio.geometry import kind_of
from backend.label_studio.protocol import Prediction, ResultItem
from backend.labeling.controls.textarea import TextArea
from backend.labeling.roles import ImageRoles, Roles
from backend.tasks.wanted import is_leftover, new_id

_MOST = 300  # characters of a reason
_STANDS_S = 86_400


def shown(error: BackendError, context: Sequence[ResultItem], roles: Roles) -> list[dict[str, Any]] | None:
    """The reason as text and nothing else: in the config's control for notices, which shows it at once.

    Without one, the own newest prompt as a region with the reason as its text, which the region list shows
    once it is accepted. None where the annotator can do nothing about the error, or there is no text to put it in.
    """
    if not error.annotator_can_help:
        return None
    prompt = next((item for item in reversed(context) if kind_of(item.type) and not is_leftover(item)), None)
    if prompt is None or prompt.to_name not in roles.images:
        return None
    image = roles.images[prompt.to_name]
    reason = f"Pallas: {error}"
    text: dict[str, Any] = {
        "id": new_id(),
        "to_name": image.name,
        "type": "textarea",
        "value": {"text": [reason if len(reason) <= _MOST else f"{reason[: _MOST - 1]}…"]},
        "origin": "prediction",
    }
    if image.listed:
        text["item_index"] = prompt.item_index
    if image.notice is not None:
        return [text | {"from_name": image.notice}]
    per_region = [control for control in image.words if isinstance(control, TextArea)]
    if not per_region:
        return None
    region = prompt.model_dump(exclude_unset=True, exclude={"is_positive"})
    return [region | {"id": text["id"], "origin": "prediction"}, text | {"from_name": per_region[0].name}]


def unready(reason: str, roles: Roles, model_version: str) -> Prediction | None:
    """A prediction that says why there is none; None where the config has no control for notices.

    It has a version of its own: Label Studio asks no more for tasks that have a prediction of the model's.
    """
    image = next((image for image in roles.images.values() if image.notice is not None), None)
    if image is None:
        return None
    item: dict[str, Any] = {"id": new_id(), "from_name": image.notice, "to_name": image.name, "type": "textarea"}
    item |= {"origin": "prediction", "value": {"text": [f"Pallas: {reason}"[:_MOST]]}}
    return Prediction(result=[item], model_version=f"{model_version} (not ready)")


class Board:
    """Knows where a notice still stands, so that the next good answer takes it away: it would be saved otherwise."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def pinned(self, project: str, task: int | None) -> None:
        """A notice was shown in a task."""
        self._redis.set(_key(project, task), 1, ex=_STANDS_S)

    def cleared(self, project: str, task: int | None, image: ImageRoles) -> list[dict[str, Any]]:
        """The item that takes the task's notice away; none where none stands."""
        if image.notice is None or not self._redis.delete(_key(project, task)):
            return []
        item = {"id": new_id(), "from_name": image.notice, "to_name": image.name, "type": "textarea"}
        return [item | {"value": {"text": []}}]


def _key(project: str, task: int | None) -> str:
    return f"pallas:notice:{project}:{task}"
