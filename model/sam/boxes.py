"""Boxes as rough masks, for checkpoints that ask for it: `prompts: {box_inside: 2.0}` in sam2.yaml, beside `model`.

SAM 2 is told of a box by its two corners alone. A small decoder knows from them where the edges are to half a cell of
its coarse map only, and its mask goes that far beyond. The same box as mask logits, sure of its outside and not of its
inside, is exact, and what the decoder has learned of masks that people paint roughly tells it what to do.
"""

from __future__ import annotations

from typing import Any

import torch
from sam2.modeling.sam2_base import SAM2Base

from model.errors import CheckpointError

OUTSIDE = -10.0
"""The logit beyond a box: as sure as SAM 2 is where a mask is given."""


def box_inside(settings: Any, where: object) -> float | None:
    """What a config says of boxes, from its `prompts`: the logit within them, or None for corners alone.

    Raises:
        CheckpointError: anything but a number above OUTSIDE and at most as sure; it names `where`.
    """
    if settings is None:
        return None
    inside = settings.get("box_inside") if isinstance(settings, dict) and set(settings) == {"box_inside"} else None
    if isinstance(inside, bool) or not isinstance(inside, int | float) or not OUTSIDE < inside <= -OUTSIDE:
        raise CheckpointError(
            f"prompts of {where} are {settings!r}: give box_inside, a number above {OUTSIDE:g} and up to {-OUTSIDE:g}, "
            "or leave prompts out"
        )
    return float(inside)


def rough_masks(sam: SAM2Base, corners: torch.Tensor) -> torch.Tensor | None:
    """Mask logits (B, 1, 4n, 4n) of boxes (B, 2, 2), corners in pixels of the image_size square: `box_inside` of `sam`
    within, OUTSIDE beyond, and between them where an edge passes through a cell; None where `sam` asks for none."""
    inside: float | None = getattr(sam, "box_inside", None)
    if inside is None:
        return None
    cells = torch.arange(sam.image_size // 4, dtype=corners.dtype, device=corners.device)[:, None]
    first, last = corners[:, :1] / 4, corners[:, 1:] / 4
    covered = (torch.minimum(last, cells + 1) - torch.maximum(first, cells)).clamp(0, 1)
    across, down = covered[..., 0], covered[..., 1]
    return (OUTSIDE + (inside - OUTSIDE) * down[:, :, None] * across[:, None, :])[:, None]
