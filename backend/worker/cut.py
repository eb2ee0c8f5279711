"""A lone "not this" click on a finished region: take what lies under it out of the region's mask."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from backend.errors import PromptError
from backend.job import RegionPrompt
from backend.label_studio.geometry import MASKS, hull, mask_of
from backend.label_studio.protocol import RegionValue

if TYPE_CHECKING:
    from model import Embedding, PerceiveAnything, Prompt

_SAME = 0.5  # IoU with the old mask from which a refined mask still is the same region
_LEFT = 0.1  # share of the old mask that a cut must leave
_DISC = 0.12  # radius of the last resort, a share of the root of the mask's area


def cut(pam: PerceiveAnything, embedding: Embedding, prompt: RegionPrompt) -> Prompt:
    """The corrected mask, as a mask prompt for the texts.

    SAM 2 is asked again with the region's own prompts, as far as we remember them (else its box), and the negative
    points. Where that does not exclude them or gives another thing, what SAM 2 sees under each click is cut out; where
    even that would leave nearly nothing, a small disc.

    Raises:
        PromptError: the mask has another size than the picture, or nothing is left of it.
    """
    from model import Prompt
    from model.values.mask import from_rle, mask_box, mask_iou

    old = from_rle(prompt.mask or {})
    if old.shape != (embedding.height, embedding.width):
        raise PromptError("the region that is corrected belongs to a picture of another size: reload the page")
    hull = mask_box(old)
    if hull is None:
        raise PromptError("the region that is corrected is empty: draw it anew")
    given = to_pixels(prompt.model_copy(update={"mask": None}), embedding.width, embedding.height)
    clicks = [(x, y) for x, y, positive in given.points or () if not positive]
    box = given.box
    if box is None and len(clicks) == len(given.points or ()):
        box = hull  # nothing says what the region is but its box
    (refined,) = pam.segment(embedding, [Prompt(points=given.points, box=box)])
    new = refined.mask
    if not _outside(new, clicks) or mask_iou(old, new) < _SAME:
        new = old
        for region, (x, y) in zip(
            pam.segment(embedding, [Prompt(points=[(x, y, 1)]) for x, y in clicks]), clicks, strict=True
        ):
            disc = _disc(old, x, y)
            rest = new & ~(region.mask | disc)
            new = rest if rest.sum() >= _LEFT * old.sum() else new & ~disc
    if not new.any():
        raise PromptError("nothing would be left of the region: delete it instead")
    return Prompt(mask=new)


def to_pixels(prompt: RegionPrompt, width: int, height: int) -> Prompt:
    """A prompt in percentages → pixels of a picture of that size.

    Raises:
        PromptError: a drawing cannot be read.
    """
    from model import Prompt
    from model.values.mask import from_rle

    if prompt.drawing is not None:
        kind, value = prompt.drawing.kind, prompt.drawing.value
        if kind in MASKS:
            return Prompt(mask=mask_of(kind, value, width, height, width * height))
        box = hull(kind, RegionValue.model_validate(value), width / height)
        prompt = prompt.model_copy(update={"drawing": None, "box": box})
    if prompt.mask is not None:
        return Prompt(mask=from_rle(prompt.mask))
    points = [(p.x / 100 * width, p.y / 100 * height, int(p.positive)) for p in prompt.points]
    pixels = None
    if prompt.box is not None:
        x1, y1, x2, y2 = prompt.box
        pixels = (x1 / 100 * width, y1 / 100 * height, x2 / 100 * width, y2 / 100 * height)
    return Prompt(points=points or None, box=pixels)


def _outside(mask: np.ndarray, clicks: list[tuple[float, float]]) -> bool:
    height, width = mask.shape
    return not any(mask[min(int(y), height - 1), min(int(x), width - 1)] for x, y in clicks)


def _disc(mask: np.ndarray, x: float, y: float) -> np.ndarray:
    rows, columns = np.ogrid[: mask.shape[0], : mask.shape[1]]
    near: np.ndarray = (columns + 0.5 - x) ** 2 + (rows + 0.5 - y) ** 2 <= _DISC**2 * float(mask.sum())
    return near
