"""Work that is done in turns with other work: a generator that yields where something else has to happen first."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TypeVar

Result = TypeVar("Result")


def run_through(steps: Generator[None, None, Result], between: Callable[[], None]) -> Result:
    """What the steps return at their end; `between` is called wherever they yield."""
    try:
        while True:
            next(steps)
            between()
    except StopIteration as done:
        result: Result = done.value
        return result
