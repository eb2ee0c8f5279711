"""What a region looks like, as a vector: SAM 2's image features, averaged inside its mask.

Two regions whose vectors point the same way look alike, in one picture or in two. The vectors belong to the checkpoint
that made them; those of another one cannot be compared with them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from model.compute.precision import full_float32
from model.values.embedding import Embedding
from model.values.region import Region


def levels(embedding: Embedding) -> list[torch.Tensor]:
    """The features (1, C, s, s) in float32, the coarsest first: n, 2n and 4n cells a side."""
    return [level.float() for level in (embedding.features, *reversed(embedding.high_resolution))]


@torch.no_grad()
@full_float32
def pooled(regions: Sequence[Region]) -> torch.Tensor:
    """The vectors (R, d) float32 of regions of pictures, on the model's device; see `PerceiveAnything.features`.

    Each is computed by itself, so that it does not depend on what stands beside it.

    Raises:
        ValueError: a region does not know its picture, as those of videos.
    """
    rows = [_vector(region) for region in regions]
    return torch.stack(rows) if rows else torch.zeros(0, 0)


def _vector(region: Region) -> torch.Tensor:
    if region.embedding is None:
        raise ValueError("features of a region that does not know its picture: take one of `segment` or `propose`")
    cells = coverage(region.mask, region.embedding.high_resolution[0].shape[-1])
    return vectors(region.embedding, torch.from_numpy(cells).to(region.embedding.device)[None])[0]


@torch.no_grad()
@full_float32
def whole(embedding: Embedding) -> torch.Tensor:
    """The vector (d,) of a whole picture."""
    side = embedding.high_resolution[0].shape[-1]
    return vectors(embedding, torch.ones(1, side, side, device=embedding.device))[0]


def vectors(embedding: Embedding, cells: torch.Tensor) -> torch.Tensor:
    """The vectors (N, d) of the places that `cells` (N, 4n, 4n) >= 0 weigh; zeros where all weights are."""
    parts = []
    for level in levels(embedding):
        side, count = level.shape[-1], len(cells)
        step = cells.shape[-1] // side
        weights = cells.float().reshape(count, side, step, side, step).sum(dim=(2, 4))
        parts.append(unit(weights.flatten(1) @ level[0].flatten(1).T))
    return unit(torch.cat(parts, dim=1))


def unit(rows: torch.Tensor, dim: int = 1) -> torch.Tensor:
    """Of length 1 along a dimension; zeros stay zeros."""
    return rows / rows.norm(dim=dim, keepdim=True).clamp(min=1e-12)


def coverage(mask: np.ndarray, side: int) -> np.ndarray:
    """Pixels of a mask (H, W) in each cell of a grid over it: (side, side) float32.

    The parts of a mask count that are smaller than a cell; where cells are smaller than pixels, several have the same.
    """
    rows, columns = (np.arange(side) * length // side for length in mask.shape)
    # cells without a pixel of their own take the one they lie on: what reduceat does with equal borders
    across = np.add.reduceat(mask, columns, axis=1, dtype=np.int32)
    return np.add.reduceat(across, rows, axis=0).astype(np.float32)
