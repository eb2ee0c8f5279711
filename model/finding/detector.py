"""Another model that finds things by words: Grounding DINO or OWLv2 of `transformers`; PAM masks its boxes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from model.errors import CheckpointError
from model.finding.words import Model, checked
from model.values.embedding import Embedding
from model.values.mask import Box, mask_iou
from model.values.prompt import Prompt
from model.values.region import Found

_SAME = 0.5  # IoU from which on two boxes' masks, or one and what is known, are one thing
_LEAST = 1.0  # pixels: boxes with a shorter side are none


class Finder(Protocol):
    """Finds things by words in a picture."""

    def boxes(self, image: Image.Image, names: Sequence[str], threshold: float) -> list[tuple[Box, float]]:
        """Boxes (x1, y1, x2, y2) in pixels, each with a score of at least the threshold, 0..1; the surest first."""
        ...


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
        pam: Model,
        image: Image.Image,
        embedding: Embedding,
        text: str | Sequence[str],
        known: Sequence[np.ndarray] = (),
        limit: int = 64,
        threshold: float = 0.3,
    ) -> list[Found]:
        """What it finds, masked by PAM: see `masked`."""
        return masked(pam, self, image, embedding, text, known, limit, threshold)

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
    pam: Model,
    finder: Finder,
    image: Image.Image,
    embedding: Embedding,
    text: str | Sequence[str],
    known: Sequence[np.ndarray] = (),
    limit: int = 64,
    threshold: float = 0.3,
) -> list[Found]:
    """What a finder finds, masked by PAM: as `PerceiveAnything.find`, with the finder's scores.

    Raises:
        PromptError: as there.
    """
    boxes = finder.boxes(image, checked(text), threshold)
    regions = pam.segment(embedding, [Prompt(box=box) for box, _ in boxes])
    kept: list[Found] = []
    for region, (_, score) in zip(regions, boxes, strict=True):
        others = [*known, *(one.mask for one in kept)]
        if len(kept) < limit and region.area and not any(mask_iou(region.mask, other) > _SAME for other in others):
            kept.append(Found.scored(region, score))
    return kept
