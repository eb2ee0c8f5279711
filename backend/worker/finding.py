"""What a job looks for in a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from backend.errors import PromptError
from backend.job import Example, FindAsk, RegionPrompt
from backend.worker.cut import to_pixels

if TYPE_CHECKING:
    from backend.worker.embeddings import Embeddings
    from model import Embedding, Found, PerceiveAnything, Region

_SAME = 0.5  # IoU from which on two kinds claim one thing


def find(pam: PerceiveAnything, embeddings: Embeddings, embedding: Embedding, ask: FindAsk) -> list[Found]:
    """Regions with a score, the surest first.

    Raises:
        PromptError, PictureError …: an example is not on its picture, or the picture cannot be had.
    """
    like = _regions(pam, embeddings, embedding, ask.like)
    unlike = _regions(pam, embeddings, embedding, ask.unlike)
    if ask.like and not like:
        raise PromptError("the model sees nothing at the example: click on a thing, or on a region of one")
    known = [_mask(prompt, embedding) for prompt in ask.known]
    return pam.find(embedding, ask.texts, like, unlike, known, ask.limit)


def apart(found: Sequence[Sequence[Found]]) -> list[list[Found]]:
    """Of several kinds that were looked for in one picture what each keeps: a thing is of the kind that is surer."""
    from model.values.mask import mask_iou

    order = sorted(
        ((-one.score, kind, one) for kind, some in enumerate(found) for one in some), key=lambda row: row[:2]
    )
    kept: list[list[Found]] = [[] for _ in found]
    for _, kind, one in order:
        others = (other for i, some in enumerate(kept) if i != kind for other in some)
        if not any(_touch(one, other) and mask_iou(one.mask, other.mask) > _SAME for other in others):
            kept[kind].append(one)
    return kept


def _touch(one: Region, other: Region) -> bool:
    a, b = one.box, other.box
    return a is not None and b is not None and a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _regions(
    pam: PerceiveAnything, embeddings: Embeddings, embedding: Embedding, examples: Sequence[Example]
) -> list[Region]:
    """Examples with a mask, on whatever pictures they are."""
    elsewhere = list(dict.fromkeys(one.picture for one in examples if one.picture is not None))
    pictures: dict[str | None, Embedding] = {None: embedding}
    for address, seen in zip(elsewhere, embeddings.look(elsewhere) if elsewhere else [], strict=True):
        if isinstance(seen, Exception):
            raise seen
        pictures[address] = seen.embedding
    each = [pictures[one.picture] for one in examples]
    prompts = [to_pixels(one.prompt, e.width, e.height) for one, e in zip(examples, each, strict=True)]
    return [region for region in pam.segment(each, prompts) if region.area]


def _mask(prompt: RegionPrompt, embedding: Embedding) -> np.ndarray:
    """Of a region that is there: its mask, or its box filled."""
    pixels = to_pixels(prompt, embedding.width, embedding.height)
    if pixels.mask is not None and pixels.mask.shape == (embedding.height, embedding.width):
        return pixels.mask
    mask = np.zeros((embedding.height, embedding.width), bool)
    if pixels.box is not None:
        x1, y1, x2, y2 = (round(side) for side in pixels.box)
        mask[y1:y2, x1:x2] = True
    return mask
