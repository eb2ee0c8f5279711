"""SAM 2 with another trunk under what a checkpoint has learned: decoder, prompts and memory go on as they are.

Only the image encoder is new, so its neck begins with the linear map that gives the old encoder's features best: what
the decoder is used to, as far as the new trunk's maps tell it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor
from torch.nn import functional

from model.loading.sam import empty_sam2
from model.loading.weights import load_into
from tiny import trunk

_ENCODER = "image_encoder."
_RIDGE = 1e-3  # of the mean variance
_AT_ONCE = 16  # pictures


def transplant(sam: SAM2Base, config: Path, weights: Path, tensors: Mapping[str, Tensor], root: Path) -> None:
    """Give `sam`, whose trunk is trained already, everything else that `tensors` of `config` know.

    Raises CheckpointError where `tensors` do not fit their config or, but for the encoder, `sam`.
    """
    old = empty_sam2(config).eval()
    fix = f"Its SAM 2 config is {config}: give the checkpoint that it was trained with"
    load_into(old, dict(tensors), weights, fix)
    kept = {name: value for name, value in tensors.items() if not name.startswith(_ENCODER)}
    own = {name: value for name, value in sam.state_dict().items() if name.startswith(_ENCODER)}
    load_into(sam, kept | own, weights, "But for its image encoder, the checkpoint has to fit the new sam2.yaml")
    fit_neck(sam, old, trunk.samples(root, 120))


@torch.no_grad()
def fit_neck(sam: SAM2Base, old: SAM2Base, pictures: Tensor) -> list[float]:
    """Fit the neck of `sam` to what `old` sees in pictures (B, 3, S, S); returns the share of the variance that it
    gives again at each level, the finest first."""
    neck, theirs = sam.image_encoder.neck, old.image_encoder
    rows: list[list[Tensor]] = []
    for part in pictures.split(_AT_ONCE):
        maps = sam.image_encoder.trunk(part)
        wanted = theirs.neck(theirs.trunk(part))[0]
        rows.append([*maps, *wanted[: len(maps) - 1]])
    levels = [torch.cat(column) for column in zip(*rows, strict=True)]
    count = len(levels) // 2 + 1
    maps, wanted = levels[:count], levels[count:]
    shares = []
    for level, aim in enumerate(wanted):
        parts = [maps[level]]
        if level == count - 2:  # the coarsest level that the decoder sees gets the last map from above
            parts.append(functional.interpolate(maps[-1], aim.shape[-2:], mode="nearest"))
        given = torch.cat(parts, 1).transpose(0, 1).flatten(1).double()
        target = aim.transpose(0, 1).flatten(1).double()
        middle, goal = given.mean(1, keepdim=True), target.mean(1, keepdim=True)
        spread = given - middle
        square = spread @ spread.T / spread.shape[1]
        square += _RIDGE * square.diagonal().mean() * torch.eye(len(square), dtype=square.dtype)
        matrix = torch.linalg.solve(square, spread @ (target - goal).T / spread.shape[1]).T
        rest = target - goal - matrix @ spread
        shares.append(float(1 - rest.square().sum() / (target - goal).square().sum()))
        bias = goal[:, 0] - (matrix @ middle)[:, 0]
        ends = torch.tensor([part.shape[1] for part in parts]).cumsum(0)[:-1]
        for offset, piece in enumerate(matrix.tensor_split(ends, dim=1)):
            layer = neck.convs[len(neck.convs) - 1 - level - offset].conv
            layer.weight.copy_(piece[..., None, None])
            layer.bias.copy_(bias if offset == 0 else torch.zeros_like(bias))
    return shares
