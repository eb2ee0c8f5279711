"""Large pictures in parts: overlapping tiles, what is seen in them, and which of it is one thing seen twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from model.values.embedding import Embedding
from model.values.prompt import Prompt
from model.values.region import Region
from model.values.window import Window

MAX_TILES = 16
"""Tiles of one picture, by default at most."""

OVERLAP = 0.25
"""Share of a tile's side that it has in common with the next one, at least: what is smaller is whole in one of them."""

CONTAINED = 0.9
"""Share of the smaller mask that must lie in the larger one for the two to be one thing seen twice …"""
SIMILAR = 0.5
"""… if the smaller one has at least this share of the larger one's area."""

_GAIN = 1.5  # a tile shows things larger than the whole picture by this at least, or there are none
_COMMON = 2048  # pixels of the longer side at which masks of different tiles are compared
_TOGETHER = 8  # windows that are cropped and encoded in one go: a bound on memory

Encode = Callable[[Sequence[Image.Image]], list[Embedding]]
"""Pictures → their embeddings, in batches that fit."""


def tiles(width: int, height: int, size: int, most: int = MAX_TILES) -> list[Window]:
    """Overlapping windows that cover a picture, row by row; empty where they would show it no better than as a whole.

    Args:
        width, height: of the picture, pixels.
        size: side of the model's input, pixels: tiles have it too, or, where that would be too many, are larger.
        most: tiles at most.
    """
    side, longer = float(size), max(width, height)
    while side * _GAIN <= longer:
        columns, rows = _starts(width, side), _starts(height, side)
        if len(columns) * len(rows) <= most:
            across, down = min(round(side), width), min(round(side), height)
            return [Window(left, top, across, down) for top in rows for left in columns]
        side *= 1.02
    return []


def _starts(length: int, side: float) -> list[int]:
    """Where tiles begin along a side, evenly spread."""
    if side >= length:
        return [0]
    count = int(np.ceil((length - side * OVERLAP) / (side * (1 - OVERLAP))))
    return [int(start) for start in np.linspace(0, length - round(side), count).round()]


def encoded(
    encode: Encode, wanted: Sequence[tuple[Embedding, Window]], together: int = _TOGETHER
) -> Iterator[tuple[Embedding, Window, Embedding]]:
    """Parts of pictures that have a `detail`, each with its own embedding; some are encoded at once.

    Yields:
        The picture, the window, the embedding of what is in it (`width` and `height` are the window's).
    """
    for begin in range(0, len(wanted), together):
        part = wanted[begin : begin + together]
        found = [picture.detail.remembered(window) if picture.detail else None for picture, window in part]
        missing = [i for i, there in enumerate(found) if there is None]
        images = [detail.crop(part[i][1]) for i in missing if (detail := part[i][0].detail) is not None]
        for i, embedding in zip(missing, encode(images) if images else [], strict=True):
            found[i] = embedding
            detail = part[i][0].detail
            if detail is not None:
                detail.remember(part[i][1], embedding)
        for (picture, window), embedding_ in zip(part, found, strict=True):
            assert embedding_ is not None
            yield picture, window, embedding_


def placed(region: Region, window: Window, picture: Embedding, prompt: Prompt | None = None) -> Region:
    """A region of a window as one of the picture; `prompt` is the picture's, None: the window's own is moved there."""
    mask = window.pasted(region.mask, picture.width, picture.height)
    if prompt is None:
        own, (left, top) = region.prompt, (window.left, window.top)
        points = [(x + left, y + top, label) for x, y, label in own.points or ()]
        box = None if own.box is None else window.placed(own.box)
        prompt = Prompt(points=points, box=box, mask=None if own.mask is None else mask)
    return replace(region, prompt=prompt, embedding=picture, mask=mask, window=window)


@dataclass(frozen=True, eq=False)
class View:
    """The whole picture or a tile of it, as the model sees it.

    Attributes:
        window: of the picture; all of it for the whole.
        embedding: of what is in the window.
    """

    window: Window
    embedding: Embedding


def windows(embedding: Embedding, size: int, most: int = MAX_TILES) -> list[Window]:
    """The whole picture, then the tiles of a large one (`Embedding.detail`); arguments as of `views`."""
    whole = Window(0, 0, embedding.width, embedding.height)
    if embedding.detail is None or most < 2:
        return [whole]
    return [whole, *tiles(embedding.width, embedding.height, size, most)]


def views(encode: Encode, embedding: Embedding, size: int, most: int = MAX_TILES) -> Iterator[View]:
    """The whole picture, then the tiles of a large one (`Embedding.detail`), encoded as they are asked for.

    Args:
        encode: makes embeddings on the model's device.
        embedding: of the whole picture, on the model's device.
        size: side of the model's input, pixels.
        most: tiles at most; with 1 or 0 there is the whole picture only.
    """
    whole, *parts = windows(embedding, size, most)
    yield View(whole, embedding)
    for _, window, seen in encoded(encode, [(embedding, window) for window in parts]):
        yield View(window, seen)


@dataclass(frozen=True, eq=False)
class Piece:
    """A mask somewhere in a picture, to be compared with others of that picture whatever view they were seen in.

    Attributes:
        left, top: of the mask, in pixels of the common scale.
        mask: boolean, its smallest rectangle at that scale.
    """

    left: int
    top: int
    mask: np.ndarray = field(repr=False)

    @property
    def area(self) -> int:
        return int(self.mask.sum())

    def common(self, other: Piece) -> int:
        """Pixels that both have."""
        left, top = max(self.left, other.left), max(self.top, other.top)
        right = min(self.left + self.mask.shape[1], other.left + other.mask.shape[1])
        bottom = min(self.top + self.mask.shape[0], other.top + other.mask.shape[0])
        if left >= right or top >= bottom:
            return 0
        mine = self.mask[top - self.top : bottom - self.top, left - self.left : right - self.left]
        its = other.mask[top - other.top : bottom - other.top, left - other.left : right - other.left]
        return int((mine & its).sum())


def piece(mask: torch.Tensor, window: Window, width: int, height: int) -> Piece | None:
    """A low-res mask (4n, 4n) bool of a window of a picture of that size; None where it is empty.

    Also None where it reaches an edge of the window behind which the picture goes on: the thing is cut there, and is
    to be taken from the tile in which it is whole, or from the whole picture.
    """
    if not mask.any() or window.cuts(mask.cpu().numpy(), width, height):
        return None
    scale = min(1.0, _COMMON / max(width, height))
    left, top = round(window.left * scale), round(window.top * scale)
    across, down = max(1, round(window.right * scale) - left), max(1, round(window.bottom * scale) - top)
    scaled = functional.interpolate(mask[None, None].float(), (down, across), mode="bilinear")[0, 0] > 0.5
    found = scaled.cpu().numpy()
    rows, columns = np.flatnonzero(found.any(1)), np.flatnonzero(found.any(0))
    if not len(rows):
        return None
    inner = found[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return Piece(left + int(columns[0]), top + int(rows[0]), inner.copy())


def merged(pieces: Sequence[Piece], max_overlap: float, limit: int | None = None) -> list[int]:
    """Greedy choice among masks of one picture, the first of them first: their indexes, at most `limit`.

    One that a chosen mask meets with an IoU above `max_overlap` is dropped, and so is one that nearly contains a chosen
    mask, or nearly lies in it, and has about its area.
    """
    areas = [one.area for one in pieces]
    chosen: list[int] = []
    for i, one in enumerate(pieces):
        if limit is not None and len(chosen) >= limit:
            break
        if not any(_same(one.common(pieces[j]), areas[i], areas[j], max_overlap) for j in chosen):
            chosen.append(i)
    return chosen


def _same(common: int, one: int, other: int, max_overlap: float) -> bool:
    smaller, larger = min(one, other), max(one, other)
    overlap = common / max(smaller + larger - common, 1)
    return overlap > max_overlap or (common >= CONTAINED * smaller and smaller >= SIMILAR * larger)
