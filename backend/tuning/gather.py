"""From reviewed regions to what the model is tuned on: their pictures are fetched once, and lie in the run's folder."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.errors import BackendError, from_model
from backend.export.pictures import Pictures
from backend.export.shapes import Shape
from backend.fetching.videos import fetch, opened
from backend.label_studio.geometry import MASKS
from backend.settings import Settings
from backend.tuning.work import Taught
from model.values.task import Task

if TYPE_CHECKING:
    from PIL import Image

    from model import Example

HELD_PERCENT = 15
_BOOK = "examples.jsonl"


class Gathered:
    """The examples of a run and their pictures, in its folder: a run that goes on finds them there.

    Args:
        settings: limits, roots, Label Studio.
        folder: of the run.
        near: of the input, below which relative paths are; None for a project.

    Attributes:
        left_out: regions whose pictures or shapes cannot be used, by reason.
    """

    def __init__(self, settings: Settings, folder: Path, near: Path | None) -> None:
        self._settings = settings
        self._folder = folder
        self._pictures = Pictures(settings, near, "none")
        self._sizes: dict[tuple[str, float | None], tuple[str, int, int] | str] = {}
        self.left_out: Counter[str] = Counter()

    def examples(self, taught: Callable[[], Iterable[Taught]], tell: Callable[[int], None]) -> list[Example]:
        """All of them. Raises what reading the work raises; OSError."""
        book = self._folder / _BOOK
        if not book.is_file():
            found = []
            for one in taught():
                example = self._example(one)
                if example is not None:
                    found.append(example)
                    tell(len(found))
            part = book.with_suffix(".part")
            with part.open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(_to_json(example)) + "\n" for example in found)
            part.replace(book)
        with book.open(encoding="utf-8") as file:
            return _shared([_from_json(json.loads(line)) for line in file])

    def picture(self, name: str) -> Image.Image:
        """By the name that examples have."""
        from model import open_picture

        return open_picture((self._folder / "pictures" / name).read_bytes(), self._settings.max_picture_pixels)

    def _example(self, one: Taught) -> Example | None:
        from model import Example
        from model.values.mask import rle_area

        known = self._look(one)
        if isinstance(known, str):
            self.left_out[known] += 1
            return None
        name, width, height = known
        shown = (one.item.original_width, one.item.original_height) if one.item.sized else (width, height)
        try:
            shape = Shape.of(one.item, *shown, self._settings.max_picture_pixels)
            across, down = width / shown[0], height / shown[1]
            x, y, w, h = shape.box
            box = (x * across, y * down, min((x + w) * across, width), min((y + h) * down, height))
            mask = shape.rle if shape.kind in MASKS else None
            if not (box[0] < box[2] and box[1] < box[3]) or (mask is not None and not rle_area(mask)):
                raise ValueError("empty")
        except (BackendError, ValueError):
            self.left_out["regions that cannot be read"] += 1
            return None
        if mask is not None and shown != (width, height):
            self.left_out["masks of another size than their picture"] += 1
            mask = None
        example = Example(one.task, name, box, mask, one.label, _choices(one), one.texts, one.weight)
        if example.label is None and not example.texts and mask is None:
            return None
        return example

    def _look(self, one: Taught) -> tuple[str, int, int] | str:
        """The name and the size of a region's picture, or why it cannot be used."""
        key = (f"{one.number}\0{one.address}", one.time_s)
        if key not in self._sizes:
            try:
                self._sizes[key] = self._keep(one)
            except OSError:
                raise
            except Exception as error:
                known = error if isinstance(error, BackendError) else from_model(error)
                if known is None:
                    raise
                self._sizes[key] = f"regions of pictures that cannot be had ({known.type})"
        return self._sizes[key]

    def _keep(self, one: Taught) -> tuple[str, int, int]:
        from model import open_picture

        data = self._pictures.data(one.address, one.number) if one.time_s is None else self._frame(one, one.time_s)
        picture = open_picture(data, self._settings.max_picture_pixels)
        name = hashlib.sha256(data).hexdigest()[:40]
        path = self._folder / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return name, picture.width, picture.height

    def _frame(self, one: Taught, time_s: float) -> bytes:
        address = self._pictures.address(one.address, one.number)
        with fetch(self._pictures.store, address, self._pictures.settings) as file:
            video = opened(Path(file.name), self._settings)
            ((_, picture),) = video.read([video.nearest(time_s)])
        out = io.BytesIO()
        picture.save(out, "PNG")
        return out.getvalue()


def is_held(group: str) -> bool:
    """Whether a task's regions are examined on, and never learned from: by its key alone, so always the same."""
    return int.from_bytes(hashlib.sha256(group.encode()).digest()[:4], "big") % 100 < HELD_PERCENT


def _choices(one: Taught) -> Any:
    from model import Choices

    return None if one.names is None else Choices(one.names.names, one.names.language)


def _to_json(example: Example) -> dict[str, Any]:
    choices = example.choices
    return {
        "group": example.group,
        "picture": example.picture,
        "box": example.box,
        "mask": example.mask,
        "label": example.label,
        "choices": None if choices is None else [choices.names, choices.language],
        "texts": [[task.value, language, text] for (task, language), text in example.texts.items()],
        "weight": example.weight,
    }


def _from_json(value: dict[str, Any]) -> Example:
    from model import Choices, Example

    choices = value["choices"]
    known = None if choices is None else Choices(tuple(tuple(names) for names in choices[0]), choices[1])
    texts = {(Task(task), language): text for task, language, text in value["texts"]}
    box = (value["box"][0], value["box"][1], value["box"][2], value["box"][3])
    return Example(value["group"], value["picture"], box, value["mask"], value["label"], known, texts, value["weight"])


def _shared(examples: list[Example]) -> list[Example]:
    """The same, with one object for equal label sets: there may be thousands of regions with hundreds of labels."""
    known: dict[Any, Any] = {}
    return [replace(one, choices=known.setdefault(one.choices, one.choices)) for one in examples]
