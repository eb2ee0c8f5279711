"""What a model is tuned on: regions that people have looked at, and the pictures they are of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from PIL import Image

from model.values.mask import Box, from_rle
from model.values.prompt import Prompt
from model.values.task import Task

LABELS, CAPTIONS, MASKS = "labels", "captions", "masks"
KINDS = (LABELS, CAPTIONS, MASKS)

Pictures = Callable[[str], Image.Image]
"""The picture of a name; what it raises ends the run."""


@dataclass(frozen=True)
class Choices:
    """A closed set of labels: of each all names that mean it; language of the names."""

    names: tuple[tuple[str, ...], ...]
    language: str = "en"


@dataclass(frozen=True, eq=False)
class Example:
    """One region as people left it.

    Attributes:
        group: of regions that are held out together, or not: their task.
        picture: its name, see `Pictures`.
        box: around it, pixels.
        mask: COCO RLE of the picture's size; None where people drew no mask.
        label: number of its label among `choices`, or None.
        choices: the labels that there are; None where there is no label.
        texts: what people say of it, by task and language.
        weight: how much it counts in training.
    """

    group: str
    picture: str
    box: Box
    mask: dict[str, Any] | None = None
    label: int | None = None
    choices: Choices | None = None
    texts: Mapping[tuple[Task, str], str] = field(default_factory=dict)
    weight: float = 1.0

    def teaches(self, kind: str) -> bool:
        """Whether it says something about labels, captions or masks."""
        return {LABELS: self.label is not None, CAPTIONS: bool(self.texts), MASKS: self.mask is not None}[kind]

    def prompts(self) -> list[Prompt]:
        """A person's ways to point at it: a tight box, and with a mask a click in its middle."""
        found = [Prompt(box=self.box)]
        if self.mask is not None:
            found.append(Prompt(points=[(*middle(from_rle(self.mask)), 1)]))
        return found


@dataclass(frozen=True, eq=False)
class Lessons:
    """What to learn, what to be examined on, and what must not be forgotten over it.

    Attributes:
        train, held: of different groups.
        guard: of other pictures, whose truth is known.
        pictures: of all of them.
        kinds: of KINDS, which are learned.
        rehearsed: names of pictures, neither the project's nor the guard's, on which the base is repeated.
    """

    train: Sequence[Example]
    held: Sequence[Example]
    guard: Sequence[Example]
    pictures: Pictures
    kinds: tuple[str, ...] = KINDS
    rehearsed: tuple[str, ...] = ()

    def taught(self) -> set[tuple[Task, str]]:
        """Tasks and languages whose answers change on purpose."""
        found: set[tuple[Task, str]] = set()
        if CAPTIONS in self.kinds:
            found |= {asked for example in self.train for asked in example.texts}
        if LABELS in self.kinds:
            found |= {(Task.RECOGNIZE, e.choices.language) for e in self.train if e.label is not None and e.choices}
        return found


def middle(mask: np.ndarray) -> tuple[float, float]:
    """The pixel deepest inside a boolean mask (H, W): x, y."""
    inside = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(int(inside.argmax()), inside.shape)
    return float(x) + 0.5, float(y) + 0.5
