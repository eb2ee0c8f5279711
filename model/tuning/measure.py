"""What a model makes of regions whose truth is known: label top-1, similarity of captions, IoU of masks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from model.errors import PromptError
from model.pam import PerceiveAnything
from model.tuning.lessons import Choices, Example
from model.tuning.shelf import Shelf
from model.values.embedding import Embedding
from model.values.mask import from_rle, mask_iou
from model.values.prompt import Prompt
from model.values.region import Region
from model.values.sampling import Sampling
from model.values.task import Task

_MOST_TOKENS = 128

Asked = tuple[Task, str]


@dataclass(frozen=True)
class Said:
    """Of one region.

    Attributes:
        group: of its example.
        label: the chosen one's number; None where there is nothing to choose.
        texts: by task and language.
    """

    group: str
    label: int | None
    texts: dict[Asked, str]


def similarity(one: str, other: str) -> float:
    """Of two texts, 0…1: one minus the normalised Levenshtein distance, as `review` measures what people keep."""
    from rapidfuzz.distance import Levenshtein

    return float(Levenshtein.normalized_similarity(one, other))


def speak(
    pam: PerceiveAnything, examples: Sequence[Example], shelf: Shelf, asked: Iterable[Asked], pause: Callable[[], None]
) -> list[Said]:
    """What the model, as it is now, chooses and says of each example in the box around it."""
    by_language: dict[str, list[Task]] = defaultdict(list)
    for task, language in asked:
        by_language[language].append(task)
    found = []
    for example in examples:
        pause()
        (region,) = pam.segment(shelf.embedding(example.picture), [Prompt(box=example.box)])
        reading = pam.read([region])
        texts: dict[Asked, str] = {}
        for language, tasks in by_language.items():
            (said,) = pam.describe(reading, tasks, language, Sampling(max_new_tokens=_MOST_TOKENS))
            texts |= {(task, language): said[task].string for task in tasks}
        label = None if example.choices is None else _choose(pam, reading, example.choices)
        found.append(Said(example.group, label, texts))
    return found


def _choose(pam: PerceiveAnything, reading: object, choices: Choices) -> int:
    """A label is as likely as its names together."""
    names = list(dict.fromkeys(name for label in choices.names for name in label))
    (row,) = pam.score(reading, names, language=choices.language).tolist()  # type: ignore[arg-type]
    likely = dict(zip(names, row, strict=True))
    return int(np.argmax([np.logaddexp.reduce([likely[name] for name in label]) for label in choices.names]))


def ious(pam: PerceiveAnything, examples: Sequence[Example], shelf: Shelf, pause: Callable[[], None]) -> list[float]:
    """Mean IoU of the masks that each of an example's prompts gives, for examples with a mask."""
    found = []
    for example in examples:
        pause()
        truth = from_rle(example.mask or {})
        regions = _segment(pam, shelf.embedding(example.picture), example.prompts())
        found.append(float(np.mean([mask_iou(truth, region.mask) for region in regions])))
    return found


def strange_ious(
    pam: PerceiveAnything, examples: Sequence[Example], shelf: Shelf, pause: Callable[[], None]
) -> list[float]:
    """As `ious`, but each mask is asked for in the picture of another group, at the same place.

    A model that looks at pictures is much worse at this; one that fills whatever box it is given is not.
    """
    found = []
    for place, example in enumerate(examples):
        pause()
        other = next((e for e in (*examples[place + 1 :], *examples[:place]) if e.group != example.group), example)
        truth, there = from_rle(example.mask or {}), shelf.embedding(other.picture)
        asked = [_moved(prompt, truth.shape, there) for prompt in example.prompts()]
        values = []
        for region in _segment(pam, there, asked):
            mask = region.mask
            rows = np.arange(truth.shape[0]) * mask.shape[0] // truth.shape[0]
            columns = np.arange(truth.shape[1]) * mask.shape[1] // truth.shape[1]
            values.append(mask_iou(truth, mask[rows][:, columns]))
        found.append(float(np.mean(values)))
    return found


def _segment(pam: PerceiveAnything, embedding: Embedding, prompts: Sequence[Prompt]) -> list[Region]:
    try:
        return pam.segment(embedding, prompts)
    except PromptError as error:
        raise PromptError(f"a reviewed region lies outside its picture ({error})") from None


def _moved(prompt: Prompt, size: tuple[int, ...], there: Embedding) -> Prompt:
    across, down = there.width / size[1], there.height / size[0]
    if prompt.points:
        return Prompt(points=[(x * across, y * down, label) for x, y, label in prompt.points])
    assert prompt.box is not None
    x1, y1, x2, y2 = prompt.box
    return Prompt(box=(x1 * across, y1 * down, x2 * across, y2 * down))
