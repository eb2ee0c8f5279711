"""Small things in large pictures: a crop around each is encoded by itself, and the thing segmented there.

SAM 2 sees a picture of any size as one square of `image_size` pixels, and its masks have a quarter of that: what is
small against the picture is some cells of a mask, or none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from model.sam.tiles import Encode, encoded, placed
from model.sam.tower import Decoded, Tower, on_host, stability
from model.values.embedding import Embedding
from model.values.mask import Box, mask_box
from model.values.prompt import Prompt
from model.values.region import Region
from model.values.window import Window

SMALL = 1 / 8
"""A thing is small where the longer side of its box is at most this share of the picture's longer side."""

SURE = 0.65
"""A click's answer is believed where its predicted IoU times its stability (see `proposals`) is at least this."""

_CONTEXT = 3.0  # the crop's side over the thing's: what stands around it says what it is
_LEAST = 0.5  # the smallest crop's side over the model's input: below, there is nothing more to see
_STEP = 1 / 8  # crops begin at multiples of this share of their side, so that clicks on a thing share one
_CLOSER = 2.5  # where a click's answer is not believed, the next look is so many times as close
_ROUNDS = 2  # a thing that is larger than it seemed is looked at once more


@dataclass(frozen=True)
class _Glance:
    """What a click finds in a window (None: in the whole picture), as far as a low-res mask says it.

    Attributes:
        box: in pixels of the picture; None where nothing is found.
        sureness: predicted IoU times stability, 0..1; 0 where the window cuts the thing.
    """

    window: Window | None
    box: Box | None
    sureness: float


def segment(
    tower: Tower, encode: Encode, embeddings: Sequence[Embedding], prompts: Sequence[Prompt], refine_masks: bool
) -> list[Region]:
    """As `Tower.segment`; in pictures with a `detail`, each small thing in a crop of its own."""
    looks = _Looks(tower, encode, embeddings, prompts)
    wanted = looks.first()
    found: dict[int, Region] = {}
    for _ in range(_ROUNDS):
        cut: dict[int, Box] = {}
        for members, window, seen in looks.at(wanted):
            regions = tower.segment([seen] * len(members), list(members.values()), refine_masks)
            for i, region in zip(members, regions, strict=True):
                picture, given, box = embeddings[i], prompts[i].mask, region.box
                if box is None:
                    continue
                if given is None and window.cuts(region.mask, picture.width, picture.height):
                    cut[i] = window.placed(box)
                    continue
                found[i] = placed(region, window, picture, prompts[i])
                if given is not None and not refine_masks:
                    # the window may have cut it
                    found[i] = replace(found[i], mask=given)
        wanted = looks.around(cut)
    rest = [i for i in range(len(prompts)) if i not in found]
    found |= zip(
        rest, tower.segment([embeddings[i] for i in rest], [prompts[i] for i in rest], refine_masks), strict=True
    )
    return [found[i] for i in range(len(prompts))]


def around(extent: Box, width: int, height: int, size: int) -> Window | None:
    """The crop in which a thing is looked at; None where it is not small against the picture.

    Args:
        extent: the thing's box, pixels.
        width, height: of the picture.
        size: side of the model's input, pixels.
    """
    thing, least = max(extent[2] - extent[0], extent[3] - extent[1]), _LEAST * size
    side = least * 2 ** (math.ceil(4 * math.log2(max(_CONTEXT * thing / least, 1))) / 4)
    if thing > SMALL * max(width, height) or 2 * side > max(width, height):
        return None
    return _window(extent, side, width, height)


def _window(extent: Box, side: float, width: int, height: int) -> Window:
    """About so large, and about around the middle of a box."""
    x1, y1, x2, y2 = extent
    across, down, step = min(round(side), width), min(round(side), height), side * _STEP
    left = round(round(((x1 + x2) / 2 - across / 2) / step) * step)
    top = round(round(((y1 + y2) / 2 - down / 2) / step) * step)
    return Window(min(max(left, 0), width - across), min(max(top, 0), height - down), across, down)


class _Looks:
    """The prompts of one call, and the windows in which they are looked at."""

    def __init__(
        self, tower: Tower, encode: Encode, embeddings: Sequence[Embedding], prompts: Sequence[Prompt]
    ) -> None:
        self._tower = tower
        self._encode = encode
        self._embeddings = embeddings
        self._prompts = prompts

    def first(self) -> dict[int, Window]:
        """Of each prompt for something small in a large picture, by its number, the window to look at."""
        extents: dict[int, Box] = {}
        clicks: dict[int, Prompt] = {}
        for i, (picture, prompt) in enumerate(zip(self._embeddings, self._prompts, strict=True)):
            box = prompt.box if prompt.mask is None else mask_box(prompt.mask)
            if picture.detail is None:
                continue
            if box is not None:
                extents[i] = _hull(box, prompt)
            elif any(label for *_, label in prompt.points or ()):
                clicks[i] = prompt
        glances = self._of_clicks(clicks)
        extents |= {i: glance.box for i, glance in glances.items() if glance.box is not None}
        seen = {i: glance.window for i, glance in glances.items() if glance.window is not None}
        return seen | self.around(extents)

    def around(self, extents: Mapping[int, Box]) -> dict[int, Window]:
        """The crops of those of the things that are small."""
        found = {}
        for i, extent in extents.items():
            picture = self._embeddings[i]
            window = around(extent, picture.width, picture.height, self._tower.image_size)
            if window is not None:
                found[i] = window
        return found

    def at(self, wanted: Mapping[int, Window]) -> Iterator[tuple[dict[int, Prompt], Window, Embedding]]:
        """Windows as the model sees them, each with the prompts that want it, moved there."""
        sharing: dict[tuple[int, Window], list[int]] = {}
        for i, window in wanted.items():
            sharing.setdefault((id(self._embeddings[i]), window), []).append(i)
        pairs = [(self._embeddings[members[0]], window) for (_, window), members in sharing.items()]
        for members, (_, window, seen) in zip(sharing.values(), encoded(self._encode, pairs), strict=True):
            moved = {i: prompt for i in members if (prompt := window.moved(self._prompts[i])) is not None}
            if moved:
                yield moved, window, seen

    def _of_clicks(self, clicks: Mapping[int, Prompt]) -> dict[int, _Glance]:
        """From the whole picture to ever smaller parts of it, until what is found there is believed."""
        best = self._glances(clicks, [self._embeddings[i] for i in clicks])
        closeness = _CLOSER
        while closer := {
            i: window
            for i, glance in best.items()
            if glance.sureness < SURE and (window := self._closer(i, closeness)) is not None
        }:
            for members, window, seen in self.at(closer):
                for i, glance in self._glances(members, [seen] * len(members), window).items():
                    if glance.sureness > best[i].sureness:
                        best[i] = glance
            closeness *= _CLOSER
        return best

    def _closer(self, i: int, closeness: float) -> Window | None:
        """What is around a prompt's clicks, so many times smaller than the picture; None where it is too small."""
        picture, inside = self._embeddings[i], _hull(None, self._prompts[i])
        side, least = max(picture.width, picture.height) / closeness, _LEAST * self._tower.image_size
        apart = max(inside[2] - inside[0], inside[3] - inside[1])
        if side * _CLOSER <= least or apart > side / 2:
            return None
        return _window(inside, max(side, least), picture.width, picture.height)

    def _glances(
        self, prompts: Mapping[int, Prompt], seen: Sequence[Embedding], window: Window | None = None
    ) -> dict[int, _Glance]:
        """What clicks find in a window of one picture; None: each in the whole of its own."""
        whole = None if window is None else self._embeddings[next(iter(prompts))]

        def glances(pictures: Sequence[Embedding], _: Sequence[Prompt], decoded: Decoded) -> list[_Glance]:
            sureness = decoded.ious[:, 0] * stability(decoded.mask_logits)
            masks, numbers = on_host([*(decoded.mask_logits > 0)], sureness[:, None])
            return [
                _glance(mask, float(sure), window, whole or picture)
                for mask, (sure,), picture in zip(masks, numbers, pictures, strict=True)
            ]

        return dict(zip(prompts, self._tower.each(seen, list(prompts.values()), glances), strict=True))


def _glance(mask: np.ndarray, sureness: float, window: Window | None, picture: Embedding) -> _Glance:
    """Of a low-res mask (4n, 4n) bool of a window of a picture."""
    place = window or Window(0, 0, picture.width, picture.height)
    box = mask_box(mask)
    if box is None:
        return _Glance(window, None, 0.0)
    across, down = place.width / mask.shape[1], place.height / mask.shape[0]
    extent = place.placed((box[0] * across, box[1] * down, box[2] * across, box[3] * down))
    return _Glance(window, extent, 0.0 if place.cuts(mask, picture.width, picture.height) else sureness)


def _hull(box: Box | None, prompt: Prompt) -> Box:
    """Of a box and the points that are inside the thing."""
    inside = [(x, y) for x, y, label in prompt.points or () if label]
    corners = [*inside, *([box[:2], box[2:]] if box is not None else [])]
    xs, ys = [x for x, _ in corners], [y for _, y in corners]
    return min(xs), min(ys), max(xs), max(ys)
