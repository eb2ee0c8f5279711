"""Pictures with exact truth, as `python -m tiny scenes` writes them (PNG files and truth.json)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from tiny import clicks
from tiny.looks import box_of

FOLDER = Path(__file__).parent / "scenes"
Mask = NDArray[np.bool_]  # height × width


@dataclass(frozen=True)
class Thing:
    """One thing of a scene: class, colour and place in truth.json's words, and its visible mask."""

    kind: str
    mask: Mask
    colour: str = ""
    place: str = ""

    def inside(self) -> tuple[float, float]:
        """The point deepest inside it, in percentages of the picture."""
        x, y, _ = clicks.middle(self.mask)
        return 100 * x / self.mask.shape[1], 100 * y / self.mask.shape[0]

    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom in percentages of the picture."""
        height, width = self.mask.shape
        left, top, right, bottom = box_of(self.mask)
        return 100 * left / width, 100 * top / height, 100 * right / width, 100 * bottom / height


@dataclass(frozen=True)
class Scene:
    picture: Path
    things: tuple[Thing, ...]

    def thing(self, kind: str) -> Thing:
        return next(thing for thing in self.things if thing.kind == kind)


def read_scenes(folder: Path = FOLDER) -> dict[str, Scene]:
    """The scenes of a folder by the names of their files without the ending."""
    rows = json.loads((folder / "truth.json").read_text(encoding="utf-8"))["scenes"]
    return {
        Path(row["file"]).stem: Scene(
            folder / row["file"],
            tuple(Thing(t["class"], _mask(t["mask"]), t["colour"], t["place"]) for t in row["things"]),
        )
        for row in rows
    }


def kinds(scenes: dict[str, Scene]) -> list[str]:
    """Every class of the scenes, sorted."""
    return sorted({thing.kind for scene in scenes.values() for thing in scene.things})


def _mask(rle: dict[str, object]) -> Mask:
    return coco.decode({"size": rle["size"], "counts": str(rle["counts"]).encode("ascii")}).astype(bool)
