"""What a job looks for in a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from backend.errors import PromptError
from backend.job import Example, FindAsk, RegionPrompt
from backend.settings import Settings
from backend.worker.cut import to_pixels

if TYPE_CHECKING:
    from PIL import Image

    from backend.worker.embeddings import Embeddings
    from model import Detector, Embedding, Found, PerceiveAnything, Region


class NamedFinder:
    """A finder that the settings name, loaded when it is first asked; None of them finds with PAM alone."""

    def __init__(self, settings: Settings, device: str) -> None:
        self._name = settings.finder
        self._threshold = settings.finder_threshold
        self._device = device
        self._loaded: Detector | None = None

    def __bool__(self) -> bool:
        return self._name is not None

    def find(
        self,
        pam: PerceiveAnything,
        image: Image.Image,
        embedding: Embedding,
        ask: FindAsk,
        known: list[np.ndarray],
        max_tiles: int,
    ) -> list[Found]:
        """What the finder finds by the texts, masked by PAM. Raises CheckpointError where it cannot be loaded."""
        from model import Detector

        if self._loaded is None:
            assert self._name is not None
            self._loaded = Detector.from_pretrained(self._name, self._device)
        limits = (ask.limit, self._threshold, max_tiles)
        return self._loaded.find(pam, image, embedding, ask.texts, known, *limits)


_SAME = 0.5  # IoU from which on two kinds claim one thing


def find(
    pam: PerceiveAnything,
    embeddings: Embeddings,
    picture: str,
    embedding: Embedding,
    ask: FindAsk,
    named: NamedFinder,
    max_tiles: int,
) -> list[Found]:
    """Regions with a score, the surest first; what is named is found by the settings' finder, if there is one.

    A large picture is searched in at most so many tiles, too.

    Raises:
        PromptError, PictureError …: an example is not on its picture, or the picture cannot be had.
    """
    like = _regions(pam, embeddings, embedding, ask.like)
    unlike = _regions(pam, embeddings, embedding, ask.unlike)
    if ask.like and not like:
        raise PromptError("the model sees nothing at the example: click on a thing, or on a region of one")
    known = [_mask(prompt, embedding) for prompt in ask.known]
    if named and not ask.like:
        return named.find(pam, embeddings.picture(picture), embedding, ask, known, max_tiles)
    return pam.find(embedding, ask.texts, like, unlike, known, ask.limit, max_tiles=max_tiles)


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
