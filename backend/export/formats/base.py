"""What a format is."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backend.export.categories import Categories
from backend.export.parts import Parts
from backend.export.shapes import Shape
from backend.export.sheets import Region, Sheet

COLOURS = 256


@dataclass(frozen=True)
class Page:
    """A picture that goes into an export.

    Attributes:
        sheet: what is known of it.
        split: its split.
        width, height: upright, pixels.
        file: name of its picture in the export, with a suffix.
        regions: each with its geometry at that size; what cannot be read is not among them.
    """

    sheet: Sheet
    split: str
    width: int
    height: int
    file: str
    regions: Sequence[tuple[Region, Shape]]

    @property
    def name(self) -> str:
        """Of its files, without a suffix."""
        return self.sheet.name


class Format(ABC):
    """Writes an export page by page; what it keeps in memory does not grow.

    Args:
        out: the folder.
        parts: files that grow.
        categories: the classes.
        splits: names of the splits.
        counts: numbers that were given away, kept in the state.
    """

    pictures = "images/{split}"
    """Folder of the pictures, below `out`."""

    def __init__(
        self, out: Path, parts: Parts, categories: Categories, splits: Sequence[str], counts: dict[str, int]
    ) -> None:
        self.out = out
        self.parts = parts
        self.categories = categories
        self.splits = splits
        self.counts = counts

    @abstractmethod
    def add(self, page: Page) -> None:
        """Write a page; the same page again changes nothing but the parts."""

    @abstractmethod
    def finish(self) -> None:
        """All pages are in: write what is about all of them."""

    def document(self, split: str, categories: Sequence[Mapping[str, Any]]) -> Iterator[str]:
        """One of COCO's JSON files, piece by piece: categories, images and annotations of a split."""
        yield '{"info": {"description": "exported by Pallas"}, "licenses": [],\n"categories": '
        yield json.dumps(categories, ensure_ascii=False)
        for key in ("images", "annotations"):
            yield f',\n"{key}": ['
            for count, line in enumerate(self.parts.lines(f"{key}-{split}")):
                yield (",\n" if count else "\n") + line
            yield "\n]"
        yield "}\n"

    def number(self, what: str) -> int:
        """The next number, from 1."""
        self.counts[what] = self.counts.get(what, 0) + 1
        return self.counts[what]

    def picture(self, page: Page) -> str:
        """The path of a page's picture below `out`."""
        return f"{self.pictures.format(split=page.split)}/{page.file}"


def said(region: Region) -> dict[str, Any]:
    """What is known of a region besides its class and geometry, for formats with room for it."""
    found: dict[str, Any] = {"region": region.id}
    if region.score is not None:
        found["score"] = region.score
    if region.texts:
        # the first text is what most tools call the caption
        found["caption"] = next(iter(region.texts.values()))
        found["texts"] = dict(region.texts)
    if region.classes:
        found["classes"] = dict(region.classes)
    if len(region.labels) > 1:
        found["labels"] = list(region.labels)
    return found


def about(sheet: Sheet) -> dict[str, Any]:
    """What is known of a picture besides its size, for formats with room for it."""
    found: dict[str, Any] = {"task": sheet.task}
    if sheet.texts:
        found["caption"] = next(iter(sheet.texts.values()))
        found["texts"] = dict(sheet.texts)
    if sheet.classes:
        found["classes"] = dict(sheet.classes)
    if sheet.video is not None:
        found |= {"video": sheet.video, "frame": sheet.frame, "time_s": round(sheet.time_s, 4)}
    if sheet.events:
        found["events"] = list(sheet.events)
    return found


def painted(page: Page, kind: type[np.generic]) -> np.ndarray:
    """The regions' places from 1 in a picture (height, width), 0 where none is; of two the smaller is on top."""
    canvas = np.zeros((page.height, page.width), kind)
    order = sorted(range(len(page.regions)), key=lambda place: -page.regions[place][1].area)
    for place in order:
        canvas[page.regions[place][1].mask] = place + 1
    return canvas


def palette() -> list[int]:
    """PASCAL VOC's colours, 256 of them: each class's bits spread over red, green and blue."""
    colours = []
    for index in range(COLOURS):
        red = green = blue = 0
        rest = index
        for shift in range(7, -1, -1):
            red |= (rest & 1) << shift
            green |= (rest >> 1 & 1) << shift
            blue |= (rest >> 2 & 1) << shift
            rest >>= 3
        colours += [red, green, blue]
    return colours
