"""From the model's free answer to a label of the project's closed set."""

from __future__ import annotations

import re
from collections.abc import Sequence


def match_label(answer: str, labels: Sequence[str]) -> str | None:
    """The label that an answer names: the same words, else the longest label that occurs in it as whole words.

    Case and punctuation do not count. None where no label, or more than one of the longest, occurs.
    """
    said = _words(answer)
    if not said:
        return None
    for label in labels:
        if _words(label) == said:
            return label
    within = [label for label in labels if _words(label) and f" {_words(label)} " in f" {said} "]
    longest = [label for label in within if len(_words(label)) == max(len(_words(other)) for other in within)]
    return longest[0] if len(longest) == 1 else None


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))
