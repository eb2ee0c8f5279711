"""Names of things on photographs that nothing was trained on, labelled by hand in named.yaml.

A name is right where it is one of the thing's, *object* where the table has none for it; anything else but *object* is
wrong, and worse than *object*.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml
from PIL import Image
from rich.console import Console
from rich.progress import track

from model import PerceiveAnything, Prompt, Task
from tiny.art import ArtMissing
from tiny.looks import UNKNOWN
from tiny.packages import LABELLED

TARGETS: dict[str, float | None] = {"named_top1": 0.50, "named_right": None, "named_wrong": None}
"""The promised figures, by key: of the things that have a name of the table, how many are called so; of all things, how
many get a right answer; and how many a wrong name (to be at most 0.15)."""
_DEMO = Path(__file__).parents[2] / "demo"
_FILE = Path(__file__).with_suffix(".yaml")


@dataclass(frozen=True)
class Labelled:
    """A thing of a photograph: its box in shares of the picture, and what it may be called."""

    file: Path
    box: tuple[float, float, float, float]
    names: tuple[str, ...]


def things(art: Path) -> Iterator[Labelled]:
    """All that are labelled. Raises ArtMissing where the art folder lacks a photograph."""
    for source, pictures in yaml.safe_load(_FILE.read_text(encoding="utf-8")).items():
        for name, rows in pictures.items():
            file = _file(source, name, art)
            if not file.is_file():
                raise ArtMissing(f"{file} is missing: python -m tiny art --art {art}")
            for row in rows:
                left, top, right, bottom = (side / 100 for side in row["box"])
                yield Labelled(file, (left, top, right, bottom), tuple(row["names"]))


def _file(source: str, name: str, art: Path) -> Path:
    if source == "packages":
        package, _, inside = name.partition("/")
        return art / "packages" / package / LABELLED[package] / inside
    return {"demo": _DEMO / "pictures", "counted": _DEMO / "counted", "art": art / "photographs"}[source] / name


def figures(pam: PerceiveAnything, art: Path, console: Console) -> tuple[dict[str, float], list[tuple[str, str, str]]]:
    """The rates by key, 0…1, and every thing's picture, its names and what it was called."""
    said: list[tuple[Labelled, str]] = []
    for thing in track(list(things(art)), description="things on photographs", console=console, transient=True):
        picture = Image.open(thing.file).convert("RGB")
        width, height = picture.size
        left, top, right, bottom = thing.box
        box = (left * width, top * height, right * width, bottom * height)
        (texts,) = pam.perceive(picture, [Prompt(box=box)], [Task.RECOGNIZE]).texts
        said.append((thing, texts[Task.RECOGNIZE].string))
    known = [(thing, word) for thing, word in said if thing.names]
    wrong = [word not in (*thing.names, UNKNOWN) for thing, word in said]
    fitting = [word in (thing.names or (UNKNOWN,)) for thing, word in said]
    rates = {
        "named_top1": sum(word in thing.names for thing, word in known) / len(known),
        "named_right": sum(fitting) / len(said),
        "named_wrong": sum(wrong) / len(said),
    }
    return rates, [(thing.file.stem, ", ".join(thing.names) or UNKNOWN, word) for thing, word in said]
