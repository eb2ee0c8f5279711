"""What is wanted of a task, as a task and roles that the service plans like any other."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, TypeVar

from backend.bulk.spec import ANNOTATIONS, FIELD, PREDICTIONS, PROPOSE, Spec
from backend.errors import ConfigError, PromptError
from backend.label_studio.protocol import Annotation, LabelStudioTask
from backend.labeling.controls import Control
from backend.labeling.controls.textarea import TextArea
from backend.labeling.roles import ImageRoles, Kind, Roles
from backend.labeling.video_roles import VideoRoles

Spoken = TypeVar("Spoken", ImageRoles, VideoRoles)


def wanted_roles(roles: Roles, spec: Spec) -> Roles:
    """The roles with the texts and proposals that the job asks for.

    Raises:
        ConfigError: the config has no such text, or no such label.
    """
    if spec.texts is not None:
        known = {name for some in _shown(roles) for control in _texts(some) for name in _names(control)}
        strange = [name for name in spec.texts if name not in known and name != "none"]
        if strange:
            raise ConfigError(
                f"--texts {','.join(strange)}: the labelling config has no such text; it has "
                f"{', '.join(sorted(known)) or 'none'}"
            )
    labels = {value for image in roles.images.values() for kind in image.kinds() for value in kind.labels}
    for label in (*(label for _, label in spec.find), *spec.like):
        if label and label not in labels:
            raise ConfigError(
                f"the labelling config has no label {label!r} for regions; it has {', '.join(sorted(labels)) or 'none'}"
            )
    return replace(
        roles,
        images={name: _image(image, spec) for name, image in roles.images.items()},
        videos={name: _spoken(video, spec) for name, video in roles.videos.items()},
    )


def wanted_task(task: LabelStudioTask, predictions: list[dict[str, Any]], roles: Roles, spec: Spec) -> LabelStudioTask:
    """The task with the regions that the job asks for in place of what annotators drew.

    Args:
        task: as Label Studio has it.
        predictions: that it has already, of any model.
        roles: of the config.
        spec: the job.

    Raises:
        PromptError: the field's regions cannot be read.
        ConfigError: the config has no picture for them.
    """
    if spec.regions is None or spec.regions == ANNOTATIONS:
        return task
    result: list[dict[str, Any]] = []
    if spec.regions == PREDICTIONS:
        others = [found for found in predictions if found.get("model_version") != spec.model_version]
        # max keeps the first of equals, and exports have no times: then the last one is the newest
        newest: dict[str, Any] = max(reversed(others), key=lambda found: str(found.get("created_at") or ""), default={})
        result = list(newest.get("result") or [])
    elif spec.regions == FIELD:
        if not roles.images:
            raise ConfigError("boxes of a field are boxes in pictures, and the labelling config has videos only")
        image = next(iter(roles.images.values()))
        result = _from_field(task.data.get(spec.regions_field), spec.regions_field, image.name)
    return task.model_copy(update={"annotations": [Annotation(result=result)] if result else [], "drafts": []})


def _image(image: ImageRoles, spec: Spec) -> ImageRoles:
    propose = image.propose if spec.regions is None else spec.regions == PROPOSE
    image = replace(_spoken(image, spec), propose=propose)
    if not (spec.find or spec.like):
        return image
    named = (Kind((text,), (label,) if label else image.label_of(text)) for text, label in spec.find)
    shown = (Kind(labels=(label,), like=examples) for label, examples in spec.like.items())
    return replace(image, looked_for=(*named, *shown), everywhere=True)


def _spoken(roles: Spoken, spec: Spec) -> Spoken:
    """With the texts that the job asks for, and no others."""
    if spec.texts is None:
        return roles
    wanted = set(spec.texts)
    dropped = {control.name for control in _texts(roles) if not wanted & _names(control)}
    words, whole = (tuple(c for c in some if c.name not in dropped) for some in (roles.words, roles.whole))
    return replace(roles, words=words, whole=whole)


def _shown(roles: Roles) -> list[ImageRoles | VideoRoles]:
    return [*roles.images.values(), *roles.videos.values()]


def _texts(roles: ImageRoles | VideoRoles) -> list[Control]:
    return [control for control in (*roles.words, *roles.whole) if isinstance(control, TextArea)]


def _names(control: Control) -> set[str]:
    """What a text may be called: its control's name, and the kind of text."""
    return {control.name, *(ask.task.value for ask in control.texts())}


def _from_field(value: Any, field: str, image: str) -> list[dict[str, Any]]:
    """Boxes as [x, y, width, height] or as an object with those names, perhaps with a label; in percentages."""
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except ValueError:
            raise PromptError(f"data.{field} is no JSON: give a list of boxes") from None
    if value is None or value == "":
        return []
    if not isinstance(value, list):
        raise PromptError(f"data.{field} must be a list of boxes, [x, y, width, height] in percentages each")
    return [_box(box, number, field, image) for number, box in enumerate(value)]


def _box(box: Any, number: int, field: str, image: str) -> dict[str, Any]:
    if isinstance(box, list) and len(box) == 4:
        box = dict(zip(("x", "y", "width", "height"), box, strict=True))
    try:
        sides = {name: float(box[name]) for name in ("x", "y", "width", "height")}
    except (KeyError, TypeError, ValueError):
        raise PromptError(
            f"data.{field}.{number} is no box: give [x, y, width, height], or an object with these names and a label"
        ) from None
    if max(sides["x"] + sides["width"], sides["y"] + sides["height"]) > 101:
        raise PromptError(f"data.{field}.{number} reaches beyond 100: boxes are percentages of the picture, not pixels")
    label = box.get("label")
    labels = {"rectanglelabels": [str(label)]} if label else {}
    return {
        **{"id": f"{field}-{number}", "type": "rectanglelabels", "from_name": "", "to_name": image},
        **({"item_index": box["item_index"]} if "item_index" in box else {}),
        "value": sides | {"rotation": 0} | labels,
    }
