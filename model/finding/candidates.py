"""What might be one of the things that are looked for: low-res masks of many prompts, of which the best are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from model.compute.precision import full_float32
from model.sam import features
from model.sam.tower import PROMPTS_ON_GPU, Tower, stability
from model.values.embedding import Embedding
from model.values.prompt import Prompt

_LEAST_CELLS = 4
"""Cells of the low-res grid below which a mask is nothing to look for."""
_MOST_SHARE = 0.8
"""Of the picture, above which a mask is its ground."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """N answers of the mask decoder about one picture, on the model's device.

    Attributes:
        prompts: what each answers.
        masks: (N, 4n, 4n) bool.
        ious: (N,), predicted, 0..1.
        stabilities: (N,), see `proposals.stability`, 0..1.
        vectors: (N, d), what each looks like, see `features`.
    """

    prompts: tuple[Prompt, ...]
    masks: torch.Tensor
    ious: torch.Tensor
    stabilities: torch.Tensor
    vectors: torch.Tensor

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def sizes(self) -> torch.Tensor:
        """(N,), shares of the picture."""
        return self.masks.flatten(1).float().mean(1)

    def take(self, chosen: Sequence[int]) -> Candidates:
        """Some of them, in this order."""
        index = torch.tensor(list(chosen), dtype=torch.long, device=self.masks.device)
        prompts = tuple(self.prompts[i] for i in chosen)
        return Candidates(prompts, self.masks[index], self.ious[index], self.stabilities[index], self.vectors[index])

    @classmethod
    def join(cls, parts: Sequence[Candidates]) -> Candidates:
        """Of several searches in one picture."""
        tensors = [
            torch.cat([getattr(part, name) for part in parts]) for name in ("masks", "ious", "stabilities", "vectors")
        ]
        return cls(tuple(prompt for part in parts for prompt in part.prompts), *tensors)


@torch.no_grad()
@full_float32
def decoded(tower: Tower, embedding: Embedding, prompts: Sequence[Prompt]) -> Candidates:
    """The answers to prompts of equally many points each; what is empty, or nearly everything, is left out."""
    parts = []
    for first in range(0, len(prompts), PROMPTS_ON_GPU):
        asked = prompts[first : first + PROMPTS_ON_GPU]
        answer = tower.decode(embedding, *tower.tensors(embedding, asked))
        masks = pieces(answer.mask_logits > 0, embedding, asked)
        cells = masks.flatten(1).sum(1)
        good = (
            (answer.object_scores > 0) & (cells >= _LEAST_CELLS) & (cells <= _MOST_SHARE * masks[0].numel())
        ).nonzero()[:, 0]
        found = Candidates(
            tuple(asked), masks, answer.ious[:, 0], stability(answer.mask_logits), masks.new_zeros(len(asked), 0)
        ).take(good.tolist())
        parts.append(
            Candidates(
                found.prompts, found.masks, found.ious, found.stabilities, features.vectors(embedding, found.masks)
            )
        )
    return Candidates.join(parts)


def pieces(masks: torch.Tensor, embedding: Embedding, prompts: Sequence[Prompt]) -> torch.Tensor:
    """Of each low-res mask (N, 4n, 4n) the piece that its prompt is about, see `piece`."""
    side = masks.shape[-1]
    found = [
        piece(mask, prompt, embedding.width / side, embedding.height / side)
        for mask, prompt in zip(masks.cpu().numpy(), prompts, strict=True)
    ]
    return torch.from_numpy(np.stack(found)).to(masks.device)


def piece(mask: np.ndarray, prompt: Prompt, across: float = 1.0, down: float = 1.0) -> np.ndarray:
    """The connected part of a mask (H, W) under the prompt's click, else the largest: of several things that look
    alike SAM 2 often answers some with the one that was asked for.

    Args:
        mask: boolean.
        prompt: with one click.
        across, down: pixels of the picture that a pixel of the mask has.
    """
    count, parts, sizes, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=4)
    if count <= 2:
        return mask
    x, y, _ = (prompt.points or ())[0]
    row, column = min(int(y / down), mask.shape[0] - 1), min(int(x / across), mask.shape[1] - 1)
    under = int(parts[row, column]) or 1 + int(sizes[1:, cv2.CC_STAT_AREA].argmax())
    return np.asarray(parts == under)


def grid(embedding: Embedding, points_per_side: int) -> list[Prompt]:
    """One click in each cell of an even grid."""
    axis = (np.arange(points_per_side) + 0.5) / points_per_side
    return [Prompt(points=[(x * embedding.width, y * embedding.height, 1)]) for y in axis for x in axis]


def overlaps(masks: torch.Tensor, others: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """IoU, and the common part as a share of the smaller one, of masks (N, s, s) and (M, s, s): (N, M) each."""
    ours, theirs = masks.flatten(1).float(), others.flatten(1).float()
    common = ours @ theirs.T
    areas, other_areas = ours.sum(1)[:, None], theirs.sum(1)[None]
    return common / (areas + other_areas - common).clamp(min=1), common / areas.minimum(other_areas).clamp(min=1)
