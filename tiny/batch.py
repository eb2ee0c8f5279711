"""Random batches of scenes as tensors: what both stages learn from."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor
from torch.nn import functional

from tiny import grounds
from tiny.art import kinds
from tiny.looks import COLOURS, PLACES, UNKNOWN
from tiny.pool import Pool, Sample
from tiny.texts import Truth

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
"""SAM 2's normalisation of RGB in 0…1."""
NAMES = [UNKNOWN, *kinds()]
"""The classes by their index."""


@dataclass(frozen=True)
class Batch:
    """B pictures with P regions each, R = B·P.

    pictures: (B, 3, S, S) float32, normalised. masks: (R, S, S) bool array. targets: (R, 1, S/4, S/4) float32 in 0…1.
    kind, colour, place: (R,) int64. cells: (B, S/16, S/16) int64, class of each cell + 1, 0 ground, −1 mixed.
    truths: of the R regions. of_photographs: what has no name is not known to be outside the class table.
    """

    pictures: Tensor
    masks: np.ndarray
    targets: Tensor
    kind: Tensor
    colour: Tensor
    place: Tensor
    cells: Tensor
    truths: tuple[Truth, ...]
    of_photographs: bool = False

    def to(self, device: torch.device) -> Batch:
        """The same batch with its tensors on a device."""
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **moved)  # type: ignore[arg-type]  # the names are the fields'


def batch_of(
    rng: Generator, pool: Pool, pictures: int, regions: int, side: int, skipped: float = 0.0, ground: float = 0.0
) -> Batch:
    """A random batch at `side` pixels, with `regions` things of each picture (some twice where there are fewer).

    `skipped` is the share of unknown things left out: they are many, and `object` is a safe guess for too long.
    `ground` is the share of regions that are parts of the photograph instead, unknown things too.
    """
    chosen: list[Sample] = []
    while len(chosen) < pictures:
        sample = pool[int(rng.integers(len(pool)))]
        if sample.truths and all((sample.owner == i + 1).sum() >= 40 for i in range(len(sample.truths))):
            chosen.append(sample)
    masks: list[np.ndarray] = []
    told: list[Truth] = []
    inputs: list[Tensor] = []
    cells: list[Tensor] = []
    for sample in chosen:
        flip = rng.random() < 0.5
        picture, owner = sample.picture, sample.owner
        truths = [t.mirror() for t in sample.truths] if flip else list(sample.truths)
        if flip:
            picture, owner = picture[:, ::-1], owner[:, ::-1]
        image = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1).float() / 255
        whole = torch.from_numpy(np.ascontiguousarray(owner))
        if side != picture.shape[0]:
            image = functional.interpolate(image[None], (side, side), mode="bilinear", antialias=True)[0]
            whole = functional.interpolate(whole[None, None].float(), (side, side), mode="nearest-exact")[0, 0].byte()
        inputs.append((image - MEAN[:, None, None]) / STD[:, None, None])
        codes = torch.tensor([0, *[NAMES.index(t.kind) + 1 for t in truths]])
        blocks = codes[whole.long()].view(side // 16, 16, side // 16, 16).permute(0, 2, 1, 3).flatten(2)
        best = blocks.mode(-1).values
        cells.append(torch.where((blocks == best[..., None]).float().mean(-1) > 0.55, best, -1))
        order = [int(i) for i in rng.permutation(len(truths))]
        order = [i for i in order if truths[i].kind != UNKNOWN or rng.random() >= skipped] or order
        for index in (order * regions)[:regions]:
            bare = None
            if ground and rng.random() < ground:
                pixels = (image.clamp(0, 1) * 255).byte().permute(1, 2, 0).contiguous().numpy()
                bare = grounds.part(rng, pixels, whole.numpy())
            if bare is not None:
                masks.append(bare[0])
                told.append(bare[1])
                continue
            masks.append(whole.numpy() == index + 1)
            told.append(truths[index])
    stack = np.stack(masks)
    targets = functional.avg_pool2d(torch.from_numpy(stack)[:, None].float(), 4)
    return Batch(
        torch.stack(inputs),
        stack,
        targets,
        torch.tensor([NAMES.index(t.kind) for t in told]),
        torch.tensor([list(COLOURS).index(t.colour) for t in told]),
        torch.tensor([list(PLACES).index(t.place) for t in told]),
        torch.stack(cells),
        tuple(told),
    )
