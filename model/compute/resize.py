"""Pillow's bicubic resize as tensor operations: the same pixels to the last bit, on any device.

SAM 2's features depend on how a picture was made small, so no other resize will do; and a picture of twelve megapixels
takes Pillow longer than a GPU takes to encode it. Pillow's own way is whole numbers: along the rows and along the
columns, each time weights of 22 bits, their sum rounded to eight bits. Which of both comes first depends on the sizes,
and on Pillow's release: `agrees` tries it.
"""

from __future__ import annotations

from functools import cache, lru_cache

import numpy as np
import torch
from PIL import Image

_BITS = 32 - 8 - 2
_SUPPORT, _A = 2.0, -0.5


def resized(pixels: torch.Tensor, size: int) -> torch.Tensor:
    """Pixels (H, W, C) uint8 as (size, size, C) uint8, what Pillow's `resize` with BICUBIC gives."""
    height, width, _ = pixels.shape
    columns_first = height - size > max(0, 2 * (width - size))
    for dim in (0, 1) if columns_first else (1, 0):
        if pixels.shape[dim] != size:
            pixels = _along(pixels, dim, *_weights(pixels.shape[dim], size, pixels.device))
    return pixels


@cache
def agrees() -> bool:
    """Whether the Pillow that is installed resizes in this way."""
    rng = np.random.default_rng(0)
    for width, height in ((47, 90), (90, 47), (120, 100), (100, 128), (20, 40), (20, 20), (64, 33)):
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        theirs = np.asarray(Image.fromarray(pixels).resize((32, 32), Image.Resampling.BICUBIC))
        if not np.array_equal(resized(torch.from_numpy(pixels), 32).numpy(), theirs):
            return False
    return True


def _along(pixels: torch.Tensor, dim: int, first: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """One pass: each line of the result is the sum of some lines, from `first` (N,) on, by `weights` (N, K) int32."""
    shape = [1, 1, 1]
    shape[dim] = len(first)
    last = pixels.shape[dim] - 1
    total = torch.full((), 1 << (_BITS - 1), dtype=torch.int32, device=pixels.device)
    for place in range(weights.shape[1]):
        # beyond the edge the weight is 0
        lines = pixels.index_select(dim, (first + place).clamp(max=last))
        total = total + lines.to(torch.int32) * weights[:, place].view(shape)
    return (total >> _BITS).clamp(0, 255).to(torch.uint8)


@lru_cache(maxsize=64)
def _weights(length: int, size: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """The first line that each line of the result reads, (N,) int64, and the weights (N, K) int32 from there on."""
    scale = length / size
    wide = max(scale, 1.0)
    support = _SUPPORT * wide
    centers = (np.arange(size) + 0.5) * scale
    first = np.maximum((centers - support + 0.5).astype(np.int64), 0)
    counts = np.minimum((centers + support + 0.5).astype(np.int64), length) - first
    # Pillow multiplies by the inverse, and adds up from left to right
    places = np.arange(counts.max())
    values = _bicubic((places + first[:, None] - centers[:, None] + 0.5) * (1.0 / wide))
    values[places >= counts[:, None]] = 0.0
    values *= (1.0 / np.add.accumulate(values, axis=1)[:, -1])[:, None]
    whole = np.trunc(np.where(values < 0, -0.5, 0.5) + values * (1 << _BITS)).astype(np.int32)
    return torch.from_numpy(first).to(device), torch.from_numpy(whole).to(device)


def _bicubic(x: np.ndarray) -> np.ndarray:
    x = np.abs(x)
    near = ((_A + 2.0) * x - (_A + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * _A
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))
