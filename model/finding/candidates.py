"""What might be one of the things that are looked for: low-res masks of many prompts, of which the best are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch

from model.compute.precision import full_float32
from model.sam import features
from model.sam.tower import PROMPTS_ON_GPU, Tower, stability
from model.values.embedding import Embedding
from model.values.prompt import Prompt
from model.values.region import Segment

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
        segments: of each what the language model reads, its mask of the low-res size; None where that was not kept.
    """

    prompts: tuple[Prompt, ...]
    masks: torch.Tensor
    ious: torch.Tensor
    stabilities: torch.Tensor
    vectors: torch.Tensor
    segments: tuple[Segment | None, ...]

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def sizes(self) -> torch.Tensor:
        """(N,), shares of the picture."""
        return self.masks.flatten(1).float().mean(1)

    @property
    def bytes_to_read(self) -> int:
        """What the language model reads, as far as it was kept."""
        return sum(one.features.nbytes + one.low_res.nbytes for one in self.segments if one is not None)

    def take(self, chosen: Sequence[int]) -> Candidates:
        """Some of them, in this order."""
        index = torch.tensor(list(chosen), dtype=torch.long, device=self.masks.device)
        rows = (self.masks[index], self.ious[index], self.stabilities[index], self.vectors[index])
        return Candidates(tuple(self.prompts[i] for i in chosen), *rows, tuple(self.segments[i] for i in chosen))

    def light(self) -> Candidates:
        """Without what the language model reads."""
        return replace(self, segments=(None,) * len(self))

    @classmethod
    def join(cls, parts: Sequence[Candidates]) -> Candidates:
        """Of several searches in one picture."""
        return cls(
            tuple(prompt for part in parts for prompt in part.prompts),
            torch.cat([part.masks for part in parts]),
            torch.cat([part.ious for part in parts]),
            torch.cat([part.stabilities for part in parts]),
            torch.cat([part.vectors for part in parts]),
            tuple(segment for part in parts for segment in part.segments),
        )


@torch.no_grad()
@full_float32
def decoded(
    tower: Tower,
    embedding: Embedding,
    prompts: Sequence[Prompt],
    min_iou: float = 0.0,
    min_stability: float = 0.0,
    room: int = 0,
) -> Candidates:
    """The answers to prompts of equally many points each; what is empty, or nearly everything, is left out.

    Args:
        tower: SAM 2.
        embedding: of the picture.
        prompts: with one click each.
        min_iou, min_stability: of the answers, 0..1.
        room: bytes that what the language model reads of them may take: of the first ones that is kept.
    """
    parts: list[Candidates] = []
    for first in range(0, len(prompts), PROMPTS_ON_GPU):
        asked = prompts[first : first + PROMPTS_ON_GPU]
        answer = tower.decode(embedding, *tower.tensors(embedding, asked))
        masks = pieces(answer.mask_logits > 0, embedding, asked)
        cells = masks.flatten(1).sum(1)
        ious, stabilities = answer.ious[:, 0], stability(answer.mask_logits)
        there = (answer.object_scores > 0) & (cells >= _LEAST_CELLS) & (cells <= _MOST_SHARE * masks[0].numel())
        good = (there & (ious >= min_iou) & (stabilities >= min_stability)).nonzero()[:, 0]
        vectors = features.vectors(embedding, masks[good])
        kept = good[: room // answer.bytes_each]
        room -= len(kept) * answer.bytes_each
        read = tower.segments(small(embedding, masks.shape[-1]), answer.take(kept)) if len(kept) else []
        segments = (*read, *[None] * (len(good) - len(kept)))
        some = tuple(asked[i] for i in good.tolist())
        parts.append(Candidates(some, masks[good], ious[good], stabilities[good], vectors, segments))
    return Candidates.join(parts)


def small(embedding: Embedding, side: int) -> Embedding:
    """As if the picture had the low-res size: for what is to be read only."""
    return replace(embedding, width=side, height=side, detail=None)


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
