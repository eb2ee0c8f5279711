"""How well words fit regions: their likelihood as an answer against that of the answer that the model would give.

A name is held against the model's own word for the thing. A phrase ("red mug") is also held, as the beginning of a
caption, against as many words of the model's own caption. So 1 is what the model would say itself, whatever else it
could have said, and large and small vocabularies are alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from model.errors import PromptError
from model.reading import Reading
from model.sam.tiles import View
from model.values.embedding import Embedding
from model.values.prompt import Prompt
from model.values.region import Region, Texts
from model.values.sampling import Sampling, TokenLimits
from model.values.task import Task

MOST_LETTERS = 200
"""Of one name that is looked for."""
LOWEST = -12.0
"""Natural log below which an answer is as unlikely as can be."""

_TOGETHER = 8  # regions whose captions' beginnings are scored together: each is read behind all of them
_HAN = re.compile(r"[\u4e00-\u9fff]")
_ARTICLES = ("A ", "An ", "The ", "")
_USUAL = Sampling(max_new_tokens=TokenLimits.same(24))
_END = ".,;:!?"


class Model(Protocol):
    """What a search asks of `PerceiveAnything`."""

    version: str

    def segment(self, embedding: Embedding, prompts: Sequence[Prompt]) -> list[Region]: ...

    def views(self, embedding: Embedding, max_tiles: int) -> Iterator[View]: ...

    def describe(
        self, regions: Reading, tasks: Sequence[Task | str], language: str = "en", sampling: Sampling = _USUAL
    ) -> list[Texts]: ...

    def score(
        self, regions: Reading, candidates: Sequence[str], task: Task | str, language: str = "en", ended: bool = True
    ) -> np.ndarray: ...


@dataclass
class Usual:
    """What the model says of a region by itself, asked when it is needed: the natural log of its own word's likelihood,
    its caption, and the natural logs of the likelihoods of that one's first words, by their number."""

    likelihood: float | None = None
    caption: str | None = None
    openings: dict[int, float] = field(default_factory=dict)


def checked(text: str | Sequence[str]) -> tuple[str, ...]:
    """The names that are looked for, each as the model would write it.

    Raises:
        PromptError: there is none, one is empty, or one is longer than any name.
    """
    names = (text,) if isinstance(text, str) else tuple(text)
    tidied = tuple(dict.fromkeys(" ".join(name.split()).strip(_END) for name in names))
    if not tidied or not all(tidied):
        raise PromptError("nothing to look for: give a word or a short phrase")
    longest = max(map(len, tidied))
    if longest > MOST_LETTERS:
        raise PromptError(f"{longest} characters to look for, at most {MOST_LETTERS}: give a word or a short phrase")
    return tidied


def language_of(names: Sequence[str]) -> str:
    """The language that the model is asked in: Chinese where a name is Chinese."""
    return "zh" if any(_HAN.search(name) for name in names) else "en"


def fits(model: Model, reading: Reading, names: Sequence[str], own: Sequence[Usual], language: str) -> np.ndarray:
    """How likely the likeliest of the names is against what the model says itself: natural logs, (R,), 0 where it is
    what it says, `LOWEST` at least.

    What is less likely than `LOWEST` is held against nothing: the model is not asked for its own words then.

    Args:
        model: that says it.
        reading: R regions.
        names: see `checked`.
        own: of each region; what is missing there is asked for.
        language: see `language_of`.
    """
    spelled = list(dict.fromkeys(form for name in names for form in (_without_article(name), name.lower(), name)))
    words = model.score(reading, spelled, Task.RECOGNIZE, language).max(axis=1)
    hopeful = np.flatnonzero(words > LOWEST).tolist()
    _ask(model, reading, [i for i in hopeful if own[i].likelihood is None], own, Task.RECOGNIZE, language)
    best = words.astype(np.float64)
    best[hopeful] -= [own[i].likelihood or 0.0 for i in hopeful]
    openings = _openings(names, language)
    if openings:
        scores = model.score(reading, list(openings), Task.BRIEF, "en", ended=False)
        hopeful = np.flatnonzero(scores.max(axis=1) > LOWEST).tolist()
        _ask(model, reading, [i for i in hopeful if own[i].caption is None], own, Task.BRIEF, language)
        for count in set(openings.values()):
            _ask_openings(model, reading, [i for i in hopeful if count not in own[i].openings], own, count)
        for i in hopeful:
            against = (scores[i, n] - own[i].openings[count] for n, count in enumerate(openings.values()))
            best[i] = max(best[i], *against)
    return np.clip(best, LOWEST, -LOWEST)


def _ask(model: Model, reading: Reading, rows: Sequence[int], own: Sequence[Usual], task: Task, language: str) -> None:
    if not rows:
        return
    for i, texts in zip(rows, model.describe(reading.take(rows), [task], language, _USUAL), strict=True):
        text = texts[task]
        if task is Task.BRIEF:
            own[i].caption = text.string
        else:
            own[i].likelihood = text.mean_logprob * (len(text.token_ids) + 1)


def _openings(names: Sequence[str], language: str) -> dict[str, int]:
    """How captions may begin that speak of a phrase, and its words."""
    phrases = [_without_article(name) for name in names if language == "en"]
    written = [(article + phrase.lower(), phrase) for phrase in phrases if " " in phrase for article in _ARTICLES]
    return {text[0].upper() + text[1:]: len(phrase.split()) for text, phrase in written}


def _ask_openings(model: Model, reading: Reading, rows: Sequence[int], own: Sequence[Usual], words: int) -> None:
    """How likely it is that the model's own captions begin as they do, up to so many words."""
    for first in range(0, len(rows), _TOGETHER):
        some = rows[first : first + _TOGETHER]
        said = [_opening(own[i].caption or "", words) for i in some]
        texts = list(dict.fromkeys(filter(None, said)))
        scores = model.score(reading.take(some), texts, Task.BRIEF, "en", ended=False) if texts else None
        for row, (i, text) in enumerate(zip(some, said, strict=True)):
            own[i].openings[words] = float(scores[row, texts.index(text)]) if scores is not None and text else 0.0


def _opening(caption: str, words: int) -> str:
    """Of a caption the article, if it has one, and so many words."""
    parts = caption.strip(_END).split()
    first = 1 if parts and parts[0] + " " in _ARTICLES else 0
    return " ".join(parts[: first + words]).strip(_END)


def _without_article(name: str) -> str:
    first, _, rest = name.partition(" ")
    return rest if rest and f"{first.capitalize()} " in _ARTICLES else name
