"""What two exams of the same regions say: gains by kind, and what was forgotten."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from model.tuning.gate import Gain, gain, of_others
from model.tuning.lessons import Example
from model.tuning.measure import Asked, Said, similarity


def label_gain(held: Sequence[Example], before: Sequence[Said], after: Sequence[Said]) -> Gain:
    """Of label top-1."""
    rows = [i for i, example in enumerate(held) if example.label is not None]
    groups, truth = [held[i].group for i in rows], np.array([held[i].label for i in rows])
    first, second = (np.array([said[i].label for i in rows]) for said in (before, after))
    others = of_others(groups, (second[:, None] == truth[None, :]).astype(float))
    return gain(groups, (first == truth).tolist(), (second == truth).tolist(), others.tolist())


def caption_gain(held: Sequence[Example], before: Sequence[Said], after: Sequence[Said]) -> Gain:
    """Of the similarity of texts with those that people left."""
    groups, first, second, others = [], [], [], []
    for asked in sorted({asked for example in held for asked in example.texts}):
        rows = [i for i, example in enumerate(held) if asked in example.texts]
        names, truth = [held[i].group for i in rows], [held[i].texts[asked] for i in rows]
        answers = [after[i].texts[asked] for i in rows]
        worth = np.array([[similarity(answer, text) for text in truth] for answer in answers])
        groups += names
        first += [similarity(before[i].texts[asked], text) for i, text in zip(rows, truth, strict=True)]
        second += list(np.diag(worth))
        others += list(of_others(names, worth))
    return gain(groups, first, second, others)


def word_guard(
    guard: Sequence[Example], before: Sequence[Said], after: Sequence[Said]
) -> dict[str, tuple[float, float]]:
    """Label top-1, and how many of the texts that were not taught name the thing."""
    found = {}
    known = [i for i, example in enumerate(guard) if example.label is not None]
    if known:
        right = [[float(said[i].label == guard[i].label) for i in known] for said in (before, after)]
        found["label top-1"] = (mean(right[0]), mean(right[1]))
    for asked in sorted({asked for said in before for asked in said.texts}):
        named = [[float(_names(said[i], guard[i], asked)) for i in known] for said in (before, after)]
        if known:
            found[f"class named in {asked[0].value}"] = (mean(named[0]), mean(named[1]))
    return found


def _names(said: Said, example: Example, asked: Asked) -> bool:
    assert example.choices is not None and example.label is not None
    text = said.texts[asked].lower()
    return any(name.lower() in text for name in example.choices.names[example.label])


def mean(values: Sequence[float]) -> float:
    """0 of none."""
    return float(np.mean(values)) if len(values) else 0.0
