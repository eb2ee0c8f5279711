"""The demo's scenes, whose truth is known, and its photographs: what must not be forgotten over a project's work."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

    from model import Example

log = logging.getLogger(__name__)

_DEMO = Path(__file__).parent.parent.parent / "demo"
_FOLDER = _DEMO / "scenes"
PREFIX = "demo/"


def guard() -> list[Example]:
    """Their things, each with its mask, its class among all classes, and no texts; none where the demo is not there."""
    from model import Choices, Example

    try:
        rows = json.loads((_FOLDER / "truth.json").read_text(encoding="utf-8"))["scenes"]
    except OSError as error:
        log.warning("%s is not there (%s): what a version forgets is not measured", _FOLDER, error.strerror)
        return []
    kinds = sorted({thing["class"] for row in rows for thing in row["things"]})
    choices = Choices(tuple((kind,) for kind in kinds))
    return [
        Example(
            f"{PREFIX}scenes/{row['file']}",
            f"{PREFIX}scenes/{row['file']}",
            (thing["box"][0], thing["box"][1], thing["box"][2], thing["box"][3]),
            thing["mask"],
            kinds.index(thing["class"]),
            choices,
        )
        for row in rows
        for thing in row["things"]
    ]


def rehearsed() -> tuple[str, ...]:
    """Names of photographs on which the base is repeated."""
    return tuple(f"{PREFIX}pictures/{file.name}" for file in sorted((_DEMO / "pictures").glob("*.jpg")))


def picture(name: str) -> Image.Image:
    """By its name here."""
    from model import open_picture

    return open_picture((_DEMO / name.removeprefix(PREFIX)).read_bytes())
