"""Large pictures: in what of them an example is looked for, and what several views of one have found, once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from model.finding.likeness import Examples
from model.sam.crops import SMALL
from model.sam.tiles import Encode, Piece, encoded, tiles
from model.values.embedding import Embedding
from model.values.mask import Box
from model.values.region import Region
from model.values.window import Window

SAME_IOU, SAME_SHARE = 0.5, 0.8
"""Overlap with something better, or known, from which on a candidate is that thing once more: IoU, or share of the
smaller one."""


@dataclass(frozen=True, eq=False)
class Scales:
    """Examples as the whole of a picture and as its tiles are compared with them; None: not to be looked for there.

    What is small in a large picture is a cell or two of the whole one's features, which look like anything: it is
    compared in tiles, as the tile sees it in which it is whole. What is not small is looked for in the whole picture.
    Only of an example in a small picture nobody knows how large its like are in a large one: it is compared in both.
    """

    whole: Examples | None
    tiled: Examples | None

    @classmethod
    def of(cls, encode: Encode, like: Sequence[Region], unlike: Sequence[Region], size: int, most: int) -> Scales:
        """Of examples and counter-examples; `size` is the side of the model's input, `most` bounds a picture's tiles.

        Raises:
            ValueError: no example has a mask, or one is of a video.
        """
        seen, not_so = (_closer(encode, regions, size, most) for regions in (like, unlike))
        examples = []
        for tiled in (False, True):
            mine, others = ([one for row in rows if (one := row[tiled]) is not None] for rows in (seen, not_so))
            there = any(region.mask.any() for region in mine)
            examples.append(Examples.of(mine, others) if there else None)
        if not any(examples):
            Examples.of(like)  # says what is wrong with them
        return cls(*examples)

    def at(self, window: Window, picture: Embedding) -> Examples | None:
        """For a view of a picture."""
        return self.whole if is_whole(window, picture) else self.tiled


def is_whole(window: Window, picture: Embedding) -> bool:
    """Whether a window shows all of a picture."""
    return (window.width, window.height) == (picture.width, picture.height)


def _closer(
    encode: Encode, regions: Sequence[Region], size: int, most: int
) -> list[tuple[Region | None, Region | None]]:
    """Each example for whole pictures, and for tiles."""
    wanted: dict[int, tuple[Embedding, Window]] = {}
    found: list[tuple[Region | None, Region | None]] = []
    for i, region in enumerate(regions):
        picture, box = region.embedding, region.box
        large = picture is not None and picture.detail is not None and most > 1
        found.append((region, None if large else region))
        if picture is None or box is None or not large:
            continue
        if max(box[2] - box[0], box[3] - box[1]) <= SMALL * max(picture.width, picture.height):
            whole_in = [one for one in tiles(picture.width, picture.height, size, most) if one.holds(box)]
            if whole_in:
                wanted[i] = picture, min(whole_in, key=lambda one: _off_middle(one, box))
    for (i, (_, window)), (_, _, seen) in zip(wanted.items(), encoded(encode, list(wanted.values())), strict=True):
        part = regions[i].mask[window.top : window.bottom, window.left : window.right]
        found[i] = None, replace(regions[i], embedding=seen, mask=part)
    return found


def _off_middle(window: Window, box: Box) -> float:
    across = (box[0] + box[2]) / 2 - (window.left + window.right) / 2
    down = (box[1] + box[3]) / 2 - (window.top + window.bottom) / 2
    return float(np.hypot(across, down))


def apart(pieces: Sequence[Piece], limit: int) -> list[int]:
    """Of what views of one picture have found, the surest first, the indexes of what is no better one once more."""
    areas = [one.area for one in pieces]
    chosen: list[int] = []
    for i, one in enumerate(pieces):
        if len(chosen) < limit and not any(_same(one.common(pieces[j]), areas[i], areas[j]) for j in chosen):
            chosen.append(i)
    return chosen


def same(one: Piece, other: Piece) -> bool:
    """Whether two are one thing."""
    return _same(one.common(other), one.area, other.area)


def _same(common: int, one: int, other: int) -> bool:
    return common > SAME_SHARE * min(one, other) or common > SAME_IOU * (one + other - common)


def of_picture(region: Region, picture: Embedding) -> bool:
    """Whether a region is of this picture: of the same embedding, or of one with the same features."""
    own = region.embedding
    if own is None or own is picture:
        return own is not None
    same_size = (own.width, own.height) == (picture.width, picture.height)
    mine, its = own.features, picture.features
    return same_size and mine.shape == its.shape and bool((mine.to(its.device) == its).all())
