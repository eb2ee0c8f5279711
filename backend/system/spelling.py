"""What somebody meant who wrote a name a little differently."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(word: str, known: Iterable[str], prefix: str = "") -> str:
    """ ": did you mean …?", to be put behind what is wrong; empty where nothing is near. `prefix` stands before all."""
    by_lower = {name.lower(): name for name in known}
    found = get_close_matches(word.lower(), by_lower, 1, 0.6)
    return f": did you mean {prefix}{by_lower[found[0]]}?" if found else ""
