"""Regions without a prompt: a grid of clicks, of which the good and different answers stay.

As SAM's automatic mask generator (arXiv 2304.02643, section 5 and appendix B) does it: keep masks that the model itself
believes in and that hardly move with their threshold, then drop those that another one covers. All of that happens on
low-res masks; only the survivors are made at the picture's size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from model.sam.tiles import CONTAINED, SIMILAR, Encode, Piece, encoded, merged, piece, placed, views
from model.sam.tower import PROMPTS_ON_GPU, Tower, stability
from model.values.embedding import Embedding
from model.values.prompt import Prompt
from model.values.region import Region
from model.values.window import Window


@dataclass(frozen=True)
class Wanted:
    """What a proposal must be; see `PerceiveAnything.propose`."""

    points_per_side: int
    min_iou: float
    min_stability: float
    max_overlap: float
    min_area_share: float
    limit: int

    def __post_init__(self) -> None:
        for name in ("points_per_side", "limit"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: give at least 1")
        for name in ("min_iou", "min_stability", "max_overlap", "min_area_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)}: give a number from 0 to 1")


def propose(tower: Tower, encode: Encode, embedding: Embedding, wanted: Wanted, max_tiles: int) -> list[Region]:
    """Regions of a picture, by predicted IoU, the best first; `embedding` is on the tower's device.

    A large picture (`Embedding.detail`) is looked at in overlapping tiles too. What a tile's edge cuts is taken from
    where it is whole, and of a thing that is seen twice the closer look stays.
    """
    if embedding.detail is None:
        places, masks, _ = _candidates(tower, embedding, wanted)
        prompts = [_click(places[i], embedding) for i in distinct(masks, wanted.max_overlap, wanted.limit)]
        return sorted(tower.segment([embedding] * len(prompts), prompts), key=lambda region: -region.iou)
    found: list[_Candidate] = []
    for view in views(encode, embedding, tower.image_size, max_tiles):
        places, masks, ious = _candidates(tower, view.embedding, wanted)
        for i in distinct(masks, wanted.max_overlap, wanted.limit):
            seen = piece(masks[i], view.window, embedding.width, embedding.height)
            if seen is not None:
                found.append(_Candidate(view.window, places[i], ious[i], seen))
    found.sort(key=lambda one: (one.window.width, -one.iou))
    kept = [found[i] for i in merged([one.piece for one in found], wanted.max_overlap)]
    kept = sorted(kept, key=lambda one: -one.iou)[: wanted.limit]
    return sorted(_regions(tower, encode, embedding, kept), key=lambda region: -region.iou)


@dataclass(frozen=True, eq=False)
class _Candidate:
    """Seen in a window at a place, shares of its width and height."""

    window: Window
    place: list[float]
    iou: float
    piece: Piece


def _regions(tower: Tower, encode: Encode, embedding: Embedding, kept: Sequence[_Candidate]) -> Iterator[Region]:
    """Each candidate at the picture's size; tiles that are not remembered any more are encoded again for it."""
    for window in dict.fromkeys(one.window for one in kept):
        whole = (window.width, window.height) == (embedding.width, embedding.height)
        seen = embedding if whole else next(encoded(encode, [(embedding, window)]))[2]
        prompts = [_click(one.place, seen) for one in kept if one.window == window]
        for region in tower.segment([seen] * len(prompts), prompts):
            yield region if whole else placed(region, window, embedding)


def _click(place: list[float], seen: Embedding) -> Prompt:
    return Prompt(points=[(place[0] * seen.width, place[1] * seen.height, 1)])


def _candidates(
    tower: Tower, embedding: Embedding, wanted: Wanted
) -> tuple[list[list[float]], torch.Tensor, list[float]]:
    """Places (N, 2) as shares of width and height, low-res masks (N, 4n, 4n) bool, predicted IoUs; the best first."""
    axis = (np.arange(wanted.points_per_side) + 0.5) / wanted.points_per_side
    grid = torch.from_numpy(np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)).float().to(tower.device)
    places, masks, ious = [], [], []
    for part in grid.split(PROMPTS_ON_GPU):
        coords = (part * tower.image_size)[:, None]
        labels = torch.ones(len(part), 1, dtype=torch.int32, device=tower.device)
        decoded = tower.decode(embedding, coords, labels, None)
        low_res = decoded.mask_logits > 0
        share = low_res.flatten(1).float().mean(1)
        good = (
            (decoded.object_scores > 0)
            & (decoded.ious[:, 0] >= wanted.min_iou)
            & (stability(decoded.mask_logits) >= wanted.min_stability)
            & (share >= wanted.min_area_share)
            & (share > 0)
        ).nonzero()[:, 0]  # how many there are is looked at once
        places.append(part[good])
        masks.append(low_res[good])
        ious.append(decoded.ious[good, 0])
    order = torch.cat(ious).argsort(descending=True)
    found = torch.cat([torch.cat(places), torch.cat(ious)[:, None]], dim=1)[order].tolist()
    return [row[:2] for row in found], torch.cat(masks)[order], [row[2] for row in found]


def distinct(masks: torch.Tensor, max_overlap: float, limit: int) -> list[int]:
    """Greedy choice of at most `limit` masks, the first of (N, H, W) bool first.

    One that a chosen mask meets with an IoU above `max_overlap` is dropped, and so is one that nearly contains a chosen
    mask, or nearly lies in it, and has about its area.
    """
    flat = masks.flatten(1)
    areas = flat.sum(1)
    left = torch.arange(len(flat), device=flat.device)
    chosen: list[int] = []
    while len(left) and len(chosen) < limit:
        best = left[0]
        chosen.append(int(best))
        left = left[1:]
        common = (flat[left] & flat[best]).sum(1)
        smaller, larger = areas[left].minimum(areas[best]), areas[left].maximum(areas[best])
        overlap = common / (smaller + larger - common)
        same = (common >= CONTAINED * smaller) & (smaller >= SIMILAR * larger)
        left = left[~same & (overlap <= max_overlap)]
    return chosen
