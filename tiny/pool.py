"""Scenes drawn ahead to disk, so that training never waits for them: plain arrays that are mapped, not read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tiny.scenes import Painter
from tiny.texts import Neighbour, Truth

SHARD = 1000
"""Scenes in one shard."""


@dataclass(frozen=True)
class Sample:
    """A scene at the model's picture size: `picture` S×S×3 uint8, `owner` S×S uint8 (0 ground, n for truth n−1)."""

    picture: NDArray[np.uint8]
    owner: NDArray[np.uint8]
    truths: tuple[Truth, ...]


def draw(painter: Painter, folder: Path, shard: int, side: int) -> Path:
    """Draw shard number `shard` (scenes shard·SHARD and on) at side × side pixels; a shard that is there is kept."""
    folder.mkdir(parents=True, exist_ok=True)
    done = folder / f"{shard:04d}.json"
    if done.is_file():
        return done
    pictures = np.zeros((SHARD, side, side, 3), np.uint8)
    owners = np.zeros((SHARD, side, side), np.uint8)
    rows = []
    for number in range(SHARD):
        scene = painter.scene(shard * SHARD + number)
        # as the model does it: Pillow's bicubic on uint8, aspect ratio not kept
        pictures[number] = np.asarray(Image.fromarray(scene.picture).resize((side, side), Image.Resampling.BICUBIC))
        owner = np.zeros(scene.picture.shape[:2], np.uint8)
        for index, thing in enumerate(scene.things):
            owner[thing.mask] = index + 1
        owners[number] = np.asarray(Image.fromarray(owner).resize((side, side), Image.Resampling.NEAREST))
        rows.append([asdict(thing.truth) for thing in scene.things])
    np.save(folder / f"{shard:04d}-pictures.npy", pictures)
    np.save(folder / f"{shard:04d}-owners.npy", owners)
    done.write_text(json.dumps(rows), encoding="utf-8")
    return done


class Pool:
    """All finished shards of a folder; `refresh` finds those drawn since."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._shards: dict[str, tuple[NDArray[np.uint8], NDArray[np.uint8], list[list[dict[str, object]]]]] = {}
        self.refresh()

    def refresh(self) -> None:
        """Map shards that have been finished since the last look."""
        for done in sorted(self.folder.glob("*.json")):
            if done.stem not in self._shards:
                self._shards[done.stem] = (
                    np.load(self.folder / f"{done.stem}-pictures.npy", mmap_mode="r"),
                    np.load(self.folder / f"{done.stem}-owners.npy", mmap_mode="r"),
                    json.loads(done.read_text(encoding="utf-8")),
                )

    def __len__(self) -> int:
        return sum(len(rows) for _, _, rows in self._shards.values())

    def __getitem__(self, number: int) -> Sample:
        pictures, owners, rows = self._shards[sorted(self._shards)[number // SHARD]]
        place = number % SHARD
        return Sample(
            np.asarray(pictures[place]), np.asarray(owners[place]), tuple(truth_from(row) for row in rows[place])
        )

    def __iter__(self) -> Iterator[Sample]:
        return (self[number] for number in range(len(self)))


def truth_from(row: dict[str, object]) -> Truth:
    """The truth from its JSON form."""
    other = row.get("neighbour")
    return Truth(**{**row, "neighbour": Neighbour(**other) if isinstance(other, dict) else None})  # type: ignore[arg-type]
