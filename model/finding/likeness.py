"""Where a picture looks like examples: a map of similarity over the encoder's features, and the places of its peaks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from model.compute.precision import full_float32
from model.finding.candidates import Candidates
from model.sam import features
from model.values.embedding import Embedding
from model.values.mask import mask_box
from model.values.prompt import Prompt
from model.values.region import Region

_WINDOW = 0.8
"""Side of the window that is compared, of the square with the example's area."""
_FAR = -0.3
"""Difference of cosines at which a counter-example says nothing any more."""


@dataclass(frozen=True, eq=False)
class Examples:
    """What is looked for, and what is not, on the model's device.

    Attributes:
        like: (L, d), at least one, see `features.pooled`.
        unlike: (U, d).
        areas: of `like`, shares of their pictures.
        sides: of the boxes of `like`, width and height as shares of their pictures.
    """

    like: torch.Tensor
    unlike: torch.Tensor
    areas: tuple[float, ...]
    sides: tuple[tuple[float, float], ...]

    @classmethod
    def of(cls, like: Sequence[Region], unlike: Sequence[Region] = ()) -> Examples:
        """Of regions with a mask; those without are left out. Raises ValueError where none is left."""
        seen = [region for region in like if region.mask.any()]
        if not seen:
            raise ValueError("an example without a mask: give a region that is there")
        rows = features.pooled(seen)
        not_so = features.pooled([region for region in unlike if region.mask.any()])
        sides = []
        for region in seen:
            x1, y1, x2, y2 = mask_box(region.mask) or (0, 0, 1, 1)
            height, width = region.mask.shape
            sides.append(((x2 - x1) / width, (y2 - y1) / height))
        areas = tuple(float(region.mask.mean()) for region in seen)
        return cls(rows, not_so.reshape(-1, rows.shape[1]).to(rows.device), areas, tuple(sides))

    @classmethod
    def seen(cls, candidates: Candidates) -> Examples:
        """Of candidates, at least one."""
        side, sides = candidates.masks.shape[-1], []
        for mask in candidates.masks.cpu().numpy():
            x1, y1, x2, y2 = mask_box(mask) or (0, 0, 1, 1)
            sides.append(((x2 - x1) / side, (y2 - y1) / side))
        none = candidates.vectors.new_zeros(0, candidates.vectors.shape[1])
        return cls(candidates.vectors, none, tuple(candidates.sizes.tolist()), tuple(sides))

    def nearest(self, vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosine of vectors (N, d) to the most similar example, and to the most similar counter-example (0 without
        one), (N,) each."""
        against = (vectors @ self.unlike.T).amax(1) if len(self.unlike) else vectors.new_zeros(len(vectors))
        return (vectors @ self.like.T).amax(1), against

    def growth(self, sizes: torch.Tensor) -> torch.Tensor:
        """How far sizes (N,), shares of the picture, are from the nearest example's: |ln ratio|, (N,)."""
        areas = torch.tensor(self.areas, device=sizes.device, dtype=sizes.dtype)
        return (sizes[:, None].clamp(min=1e-6) / areas[None]).log().abs().amin(1)


@torch.no_grad()
@full_float32
def similarity(embedding: Embedding, examples: Examples) -> torch.Tensor:
    """The map (L, 2n, 2n): how much what lies around each place looks like each example, at the example's size.

    Counter-examples are taken off: where they look more alike, the map is below 0.
    """
    top, middle, finest = features.levels(embedding)
    side = middle.shape[-1]
    maps = [
        functional.interpolate(top, (side, side), mode="bilinear", align_corners=False),
        middle,
        functional.adaptive_avg_pool2d(finest, side),
    ]
    found = []
    for like, area in zip(examples.like, examples.areas, strict=True):
        around = _WINDOW * side * area**0.5
        window = 2 * round((around - 1) / 2) + 1 if around > 1 else 1
        rows = features.unit(
            torch.cat(
                [
                    features.unit(
                        functional.avg_pool2d(level, window, 1, window // 2, count_include_pad=False)[0].flatten(1), 0
                    )
                    for level in maps
                ]
            ),
            0,
        )
        alike = like @ rows
        if len(examples.unlike):
            alike = alike - (examples.unlike @ rows).amax(0).clamp(min=0)
        found.append(alike.reshape(side, side))
    return torch.stack(found)


def places(embedding: Embedding, examples: Examples, most: int) -> list[Prompt]:
    """Where to ask for things like the examples: a box of an example's size, and a click in its middle, at each peak of
    the map, the highest peaks first, at most so many."""
    maps = similarity(embedding, examples)
    peaks = (maps >= functional.max_pool2d(maps[:, None], 3, 1, 1)[:, 0]).nonzero()
    order = maps[tuple(peaks.T)].argsort(descending=True, stable=True)[:most]
    width, height, side = embedding.width, embedding.height, maps.shape[-1]
    prompts = []
    for number, row, column in peaks[order].tolist():
        x, y = (column + 0.5) / side * width, (row + 0.5) / side * height
        across, down = (
            share * length / 2 for share, length in zip(examples.sides[number], (width, height), strict=True)
        )
        box = (max(0.0, x - across), max(0.0, y - down), min(float(width), x + across), min(float(height), y + down))
        prompts.append(Prompt(points=[(x, y, 1)], box=box))
    return prompts


def likeness(candidates: Candidates, examples: Examples) -> dict[str, torch.Tensor]:
    """What `calibration` wants to know of candidates beside examples, (N,) each."""
    like, against = examples.nearest(candidates.vectors)
    nearer = (against - like).clamp(min=_FAR) if len(examples.unlike) else like.new_full(like.shape, _FAR)
    return {
        "likeness": -(1 - like).clamp(min=1e-3).log(),
        "against": nearer,
        "growth": examples.growth(candidates.sizes),
    }
