"""How well words fit regions: their likelihood as an answer against that of the answer that the model would give.

A name is held against the model's own word for the thing. A phrase ("red mug") is also held, as the beginning of a
caption, against as many words of the model's own caption. So 1 is what the model would say itself, whatever else it
could have said, and large and small vocabularies are alike.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from model.errors import PromptError
from model.reading import Reading
from model.values.embedding import Embedding
from model.values.prompt import Prompt
from model.values.region import Region, Texts
from model.values.sampling import Sampling, TokenLimits
from model.values.task import Task

MOST_LETTERS = 200
"""Of one name that is looked for."""
LOWEST = -12.0
"""Natural log below which an answer is as unlikely as can be."""

_HAN = re.compile(r"[\u4e00-\u9fff]")
_ARTICLES = ("A ", "An ", "The ", "")
_USUAL = Sampling(max_new_tokens=TokenLimits.same(24))
_END = ".,;:!?"


class Model(Protocol):
    """What a search asks of `PerceiveAnything`."""

    def segment(self, embedding: Embedding, prompts: Sequence[Prompt]) -> list[Region]: ...

    def describe(
        self, regions: Reading, tasks: Sequence[Task | str], language: str = "en", sampling: Sampling = _USUAL
    ) -> list[Texts]: ...

    def score(
        self, regions: Reading, candidates: Sequence[str], task: Task | str, language: str = "en", ended: bool = True
    ) -> np.ndarray: ...


@dataclass(frozen=True)
class Usual:
    """What the model says of a region by itself: its word, the natural log of that word's likelihood, its caption."""

    word: str
    likelihood: float
    caption: str


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


def usual(model: Model, reading: Reading, language: str) -> list[Usual]:
    """The model's own answers about regions, briefly."""
    found = []
    for texts in model.describe(reading, [Task.RECOGNIZE, Task.BRIEF], language, _USUAL):
        word, caption = texts[Task.RECOGNIZE], texts[Task.BRIEF]
        found.append(Usual(word.string, word.mean_logprob * (len(word.token_ids) + 1), caption.string))
    return found


def fits(model: Model, reading: Reading, names: Sequence[str], own: Sequence[Usual], language: str) -> np.ndarray:
    """How likely the likeliest of the names is against what the model says itself: natural logs, (R,), 0 where it is
    what it says, `LOWEST` at least.

    Args:
        model: that says it.
        reading: R regions.
        names: see `checked`.
        own: of each region, see `usual`.
        language: see `language_of`.
    """
    spelled = list(dict.fromkeys(form for name in names for form in (_without_article(name), name.lower(), name)))
    words = model.score(reading, spelled, Task.RECOGNIZE, language).max(axis=1)
    best = words - np.array([one.likelihood for one in own])
    phrases = [_without_article(name) for name in names if language == "en" and " " in _without_article(name)]
    if phrases:
        best = np.maximum(best, _openings(model, reading, phrases, own))
    return np.clip(best, LOWEST, -LOWEST)


def _openings(model: Model, reading: Reading, phrases: Sequence[str], own: Sequence[Usual]) -> np.ndarray:
    """The same of captions that begin with a phrase, against the region's own caption as far as as many words."""
    asked = {}
    for phrase in phrases:
        for article in _ARTICLES:
            opening = article + phrase.lower()
            asked[opening[0].upper() + opening[1:]] = len(phrase.split())
    mine = {(i, count): _opening(one.caption, count) for i, one in enumerate(own) for count in set(asked.values())}
    texts = list(dict.fromkeys([*asked, *filter(None, mine.values())]))
    scores = model.score(reading, texts, Task.BRIEF, "en", ended=False)
    place = {text: i for i, text in enumerate(texts)}
    best = np.full(len(own), LOWEST)
    for row in range(len(own)):
        for opening, count in asked.items():
            said = mine[row, count]
            against = scores[row, place[said]] if said else 0.0
            best[row] = max(best[row], scores[row, place[opening]] - against)
    return best


def _opening(caption: str, words: int) -> str:
    """Of a caption the article, if it has one, and so many words."""
    parts = caption.strip(_END).split()
    first = 1 if parts and parts[0] + " " in _ARTICLES else 0
    return " ".join(parts[: first + words]).strip(_END)


def _without_article(name: str) -> str:
    first, _, rest = name.partition(" ")
    return rest if rest and f"{first.capitalize()} " in _ARTICLES else name
