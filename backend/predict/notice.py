"""What the annotator can read: errors, of which Label Studio shows nothing but a spinner that stops, and the words of a
suggestion, which it shows after accepting only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis

from backend.errors import BackendError, ConfigError
from backend.label_studio.geometry import kind_of
from backend.label_studio.protocol import Prediction, ResultItem
from backend.label_studio.regions import is_leftover
from backend.labeling.controls.textarea import TextArea
from backend.labeling.roles import ImageRoles, Roles
from backend.labeling.tags import read_tags
from backend.labeling.template import read_tree
from backend.tasks.results import Words
from backend.tasks.wanted import new_id

_MOST = 300  # characters of a reason
_STANDS_S = 86_400
_AGAIN_MS = (2_000, 180_000)


def shown(error: BackendError, context: Sequence[ResultItem], roles: Roles) -> list[dict[str, Any]] | None:
    """The reason as text and nothing else: in the config's control for notices, which shows it at once.

    Without one, the own newest prompt as a region with the reason as its text, which the region list shows
    once it is accepted. None where the annotator can do nothing about the error, or there is no text to put it in.
    """
    if not error.annotator_can_help:
        return None
    prompt = next((item for item in reversed(context) if kind_of(item.type) and not is_leftover(item)), None)
    # a text that was typed is no prompt of a region
    item = prompt or (context[-1] if context else None)
    if item is None or item.to_name not in roles.images:
        return None
    image = roles.images[item.to_name]
    reason = f"Pallas: {error}"
    text: dict[str, Any] = {
        "id": new_id(),
        "to_name": image.name,
        "type": "textarea",
        "value": {"text": [_cut(reason)]},
        "origin": "prediction",
    }
    if image.listed:
        text["item_index"] = item.item_index
    if image.notice is not None:
        return [text | {"from_name": image.notice}]
    per_region = [control for control in image.words if isinstance(control, TextArea)]
    if not per_region or prompt is None:
        return None
    region = prompt.model_dump(exclude_unset=True, exclude={"is_positive"})
    return [region | {"id": text["id"], "origin": "prediction"}, text | {"from_name": per_region[0].name}]


def of_config(label_config: str, error: ConfigError) -> list[dict[str, Any]] | None:
    """What is wrong with a config, in the control for notices that it has all the same; None where it has none."""
    try:
        tags, _ = read_tags(read_tree(label_config))
    except ConfigError:
        return None
    tag = next((tag for tag in tags if tag.kind == "TextArea" and "notice" in tag.wishes), None)
    if tag is None:
        return None
    item: dict[str, Any] = {"id": new_id(), "from_name": tag.name, "to_name": tag.to_name, "type": "textarea"}
    return [item | {"origin": "prediction", "value": {"text": [_cut(f"Pallas: {error}")]}}]


def without(reason: str, roles: Roles, model_version: str, why: str = "not ready") -> Prediction | None:
    """A prediction that says the reason why there is none; None where the config has no control for notices.

    It has a version of its own: Label Studio asks no more for tasks that have a prediction of the model's.
    """
    image = next((image for image in roles.images.values() if image.notice is not None), None)
    if image is None:
        return None
    return Prediction(result=[_item(image, _cut(f"Pallas: {reason}"))], model_version=f"{model_version} ({why})")


def suggestion(said: Sequence[Words]) -> str:
    """The class and the caption of what is suggested, in a line: "dolphin 0.88 – A blue dolphin at the left."

    Of several regions the classes.
    """
    if len(said) > 1:
        return _cut(f"{len(said)} regions: {', '.join(map(_class, said))}")
    return _cut(" – ".join(part for words in said for part in (_class(words), words.text) if part))


def _class(words: Words) -> str:
    if words.label is None:
        return f"no label ({words.word})" if words.word else "no label"
    return f"{words.label} {words.probability:.2f}" if words.probability is not None else f"{words.label} (chosen)"


def _cut(text: str) -> str:
    return text if len(text) <= _MOST else f"{text[: _MOST - 1]}…"


class Board:
    """Knows where a notice still stands, so that the next good answer takes it away: it would be saved otherwise.

    Knows as well where one is due, though Label Studio does not say so.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def asked_again(self, project: str, task: int | None) -> bool:
        """Whether a task in which nothing is marked was asked about a while ago, and nobody clicked in it since.

        Predictions that are retrieved for one task, and one that is opened, are the same request. Who retrieves some
        opens the task next, to see them; who opens one clicks next. Once for each pair.
        """
        key = _bare_key(project, task)
        soonest, latest = _AGAIN_MS
        if self._redis.set(key, 1, px=latest, nx=True):
            return False
        left_ms: Any = self._redis.pttl(key)
        # Label Studio may ask twice at once
        return latest - left_ms >= soonest and bool(self._redis.delete(key))

    def worked_on(self, project: str, task: int | None) -> None:
        """Somebody clicked in a task."""
        self._redis.delete(_bare_key(project, task))

    def pinned(self, project: str, task: int | None) -> None:
        """A notice was shown in a task."""
        self._redis.set(_key(project, task), 1, ex=_STANDS_S)

    def answered(self, project: str, task: int | None, image: ImageRoles, text: str = "") -> list[dict[str, Any]]:
        """The item that shows a text in place of what stood there; without a text, the item that takes that away.

        None where there is nothing to show or to take away, or nowhere to show it.
        """
        if image.notice is None:
            return []
        if text:
            self.pinned(project, task)
        elif not self._redis.delete(_key(project, task)):
            return []
        return [_item(image, text)]


def _item(image: ImageRoles, text: str) -> dict[str, Any]:
    """What the control for notices shows; it is empty with an empty text."""
    item: dict[str, Any] = {"id": new_id(), "from_name": image.notice, "to_name": image.name, "type": "textarea"}
    if image.page is not None:
        item["item_index"] = image.page
    return item | {"origin": "prediction", "value": {"text": [text] if text else []}}


def _key(project: str, task: int | None) -> str:
    return f"pallas:notice:{project}:{task}"


def _bare_key(project: str, task: int | None) -> str:
    return f"pallas:bare:{project}:{task}"
