"""Annotated regions of a project as examples of their labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from backend.bulk.sources import Item
from backend.errors import BadRequest, PromptError
from backend.job import Example, RegionPrompt
from backend.label_studio.access import cloud_path
from backend.label_studio.protocol import ResultItem
from backend.label_studio.regions import regions_of, shape_of
from backend.labeling.roles import read_roles
from backend.settings import Settings

MOST = 8
"""Of a label: more of them say little more, and each picture's job carries them."""
_MOST_TASKS = 2000


def examples(
    settings: Settings, items: Iterable[Item], label_config: str, labels: Sequence[str]
) -> dict[str, tuple[Example, ...]]:
    """Of each label up to eight regions that people annotated, as different tasks have them, by the label's value.

    Raises:
        BadRequest: nobody has annotated one with a label among the first 2,000 tasks.
    """
    roles = read_roles(label_config, settings.language)
    found: dict[str, list[Example]] = {label: [] for label in labels}
    for number, item in enumerate(items):
        if number == _MOST_TASKS or all(len(some) >= MOST for some in found.values()):
            break
        task = item.task
        for work in (work for work in (task.annotations if task else ()) if not work.was_cancelled):
            assert task is not None
            for image in (page for shown in roles.of(task.data).images.values() for page in shown.pages(task.data)):
                address = image.picture(task.data)
                for items_of_region in regions_of(work.result, image) if address else ():
                    named = {label for one in items_of_region for label in image.chosen(one)}
                    for label in named & found.keys():
                        _add(found[label], items_of_region[0], cloud_path((address or "").strip(), task.id), settings)
    missing = [label for label, some in found.items() if not some]
    if missing:
        raise BadRequest(f"--like-labeled {', '.join(missing)}: no annotated region has this label yet")
    return {label: tuple(some) for label, some in found.items()}


def _add(found: list[Example], shape: ResultItem, picture: str, settings: Settings) -> None:
    if len(found) >= MOST:
        return
    try:
        prompt = RegionPrompt().model_copy(update=shape_of(shape, settings.max_picture_pixels))
    except PromptError:
        return
    if prompt.points == () and (prompt.mask or prompt.box or prompt.drawing):
        found.append(Example(prompt=prompt, picture=picture))
