"""Another model that finds things by words: Grounding DINO or OWLv2 of `transformers`; PAM masks its boxes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from model.errors import CheckpointError
from model.finding.scales import SAME_IOU, same
from model.finding.words import checked
from model.sam.tiles import MAX_TILES, Piece, piece
from model.values.embedding import Embedding
from model.values.mask import Box
from model.values.prompt import Prompt
from model.values.region import Found, Region
from model.values.window import Window

_LEAST = 1.0  # pixels: boxes with a shorter side are none
_EDGE = 0.01  # share of a window's side from its edge at which a box ends that is cut there


class Finder(Protocol):
    """Finds things by words in a picture."""

    def boxes(self, image: Image.Image, names: Sequence[str], threshold: float) -> list[tuple[Box, float]]:
        """Boxes (x1, y1, x2, y2) in pixels, each with a score of at least the threshold, 0..1; the surest first."""
        ...


class Masker(Protocol):
    """What a finder asks of `PerceiveAnything`."""

    def segment(self, embedding: Embedding, prompts: Sequence[Prompt]) -> list[Region]: ...

    def windows(self, embedding: Embedding, max_tiles: int) -> list[Window]: ...


class Detector:
    """An open-vocabulary detector of `transformers` as a `Finder`.

    Args:
        model: of `AutoModelForZeroShotObjectDetection`.
        processor: its own.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self._model = model.eval()
        self._processor = processor

    @classmethod
    def from_pretrained(cls, folder_or_id: str | Path, device: str | torch.device = "cpu") -> Detector:
        """Load one, e.g. `IDEA-Research/grounding-dino-tiny` or `google/owlv2-base-patch16-ensemble`.

        Raises:
            CheckpointError: there is none, or it is no such model.
        """
        from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

        try:
            processor = AutoProcessor.from_pretrained(folder_or_id)
            model = AutoModelForZeroShotObjectDetection.from_pretrained(folder_or_id)
        except (OSError, ValueError, KeyError, ImportError) as error:
            first = str(error).strip().partition("\n")[0]
            raise CheckpointError(
                f"{folder_or_id} cannot be loaded as a finder ({first}): give a hub id or a folder of a Grounding DINO "
                "or an OWLv2"
            ) from None
        return cls(model.to(device), processor)

    def find(
        self,
        pam: Masker,
        image: Image.Image,
        embedding: Embedding,
        text: str | Sequence[str],
        known: Sequence[np.ndarray] = (),
        limit: int = 64,
        threshold: float = 0.3,
        max_tiles: int = MAX_TILES,
    ) -> list[Found]:
        """What it finds, masked by PAM: see `masked`."""
        return masked(pam, self, image, embedding, text, known, limit, threshold, max_tiles)

    @torch.no_grad()
    def boxes(self, image: Image.Image, names: Sequence[str], threshold: float) -> list[tuple[Box, float]]:
        """See `Finder`; boxes are cut at the picture's edge."""
        wanted = [name.lower() for name in names]
        inputs = self._processor(images=image, text=[wanted], return_tensors="pt").to(self._model.device)
        outputs = self._model(**inputs)
        (found,) = self._processor.post_process_grounded_object_detection(
            outputs=outputs, threshold=threshold, target_sizes=[(image.height, image.width)]
        )
        edge = torch.tensor([image.width, image.height] * 2, dtype=torch.float32)
        corners = found["boxes"].float().cpu().clamp(min=0).minimum(edge)
        rows = zip(corners.tolist(), found["scores"].tolist(), strict=True)
        some = [((x1, y1, x2, y2), score) for (x1, y1, x2, y2), score in rows if min(x2 - x1, y2 - y1) >= _LEAST]
        return sorted(some, key=lambda one: -one[1])


def masked(
    pam: Masker,
    finder: Finder,
    image: Image.Image,
    embedding: Embedding,
    text: str | Sequence[str],
    known: Sequence[np.ndarray] = (),
    limit: int = 64,
    threshold: float = 0.3,
    max_tiles: int = MAX_TILES,
) -> list[Found]:
    """What a finder finds, masked by PAM: as `PerceiveAnything.find`, with the finder's scores.

    It is shown a large picture as a whole and in the tiles that `find` searches, too; `image` is upright.

    Raises:
        PromptError: as there.
    """
    windows = pam.windows(embedding, max_tiles)
    boxes = _boxes(finder, image, windows, checked(text), threshold)
    regions = pam.segment(embedding, [Prompt(box=box) for box, _ in boxes])
    taken = [there for mask in known if (there := _piece(mask, windows[0])) is not None]
    kept: list[Found] = []
    for region, (_, score) in zip(regions, boxes, strict=True):
        there = _piece(region.mask, windows[0]) if len(kept) < limit else None
        if there is not None and not any(same(there, other) for other in taken):
            taken.append(there)
            kept.append(Found.scored(region, score))
    return kept


def _boxes(
    finder: Finder, image: Image.Image, windows: Sequence[Window], names: Sequence[str], threshold: float
) -> list[tuple[Box, float]]:
    """What it finds in each window, in pixels of the picture, the surest first: a thing that several show once, as the
    closest look shows it, and none that a window cuts."""
    found: list[tuple[Window, Box, float]] = []
    for window in windows:
        for box, score in finder.boxes(window.of(image), names, threshold):
            if not _cuts(window, box, image):
                found.append((window, window.placed(box), score))
    found.sort(key=lambda one: (one[0].width * one[0].height, -one[2]))
    kept: list[tuple[Window, Box, float]] = []
    for window, box, score in found:
        if not any(other != window and _box_iou(box, its) > SAME_IOU for other, its, _ in kept):
            kept.append((window, box, score))
    return sorted(((box, score) for _, box, score in kept), key=lambda one: -one[1])


def _cuts(window: Window, box: Box, image: Image.Image) -> bool:
    """Whether a box of a window ends at an edge of it behind which the picture goes on."""
    x1, y1, x2, y2 = box
    near, low = _EDGE * window.width, _EDGE * window.height
    return (
        (window.left > 0 and x1 <= near)
        or (window.top > 0 and y1 <= low)
        or (window.right < image.width and x2 >= window.width - near)
        or (window.bottom < image.height and y2 >= window.height - low)
    )


def _box_iou(one: Box, other: Box) -> float:
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    common = max(0.0, across) * max(0.0, down)
    return common / (sum((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (one, other)) - common)


def _piece(mask: np.ndarray, whole: Window) -> Piece | None:
    return piece(torch.from_numpy(mask), whole, whole.width, whole.height)
