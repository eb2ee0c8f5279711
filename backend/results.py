"""From a job's reply to a prediction in Label Studio's result format."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from backend.controls import Control, RegionContext
from backend.job import JobReply, RegionPrompt
from backend.protocol import Prediction


def shape(reply: JobReply, prompts: Sequence[RegionPrompt], outputs: Sequence[Control]) -> Prediction:
    """One prediction: for each region the items of all outputs under one id, geometry first.

    Its score is the least certain region's mask IoU as SAM 2 estimates it, 0..1. A region whose mask is empty (the
    model sees no object at the prompt) is left out: text without geometry is not shown.
    """
    items: list[dict[str, Any]] = []
    scores: list[float] = []
    for prompt, region in zip(prompts, reply.regions, strict=True):
        # full-length ids: shorter ones collide in projects with many regions
        context = RegionContext(uuid.uuid4().hex, reply, region, prompt.label)
        geometry = _geometry(outputs, prompt.label).item(context)
        if geometry is None:
            continue
        texts = [control.item(context) for control in outputs if not control.is_geometry]
        items += [geometry, *(item for item in texts if item is not None)]
        scores.append(region.iou)
    score = round(min(scores), 4) if scores else None
    return Prediction(result=items, score=score, model_version=reply.model_version)


def _geometry(outputs: Sequence[Control], label: str | None) -> Control:
    """Of several mask controls for one picture, the one that has the annotator's label, else the first."""
    candidates = [control for control in outputs if control.is_geometry]
    return next((control for control in candidates if control.has_label(label)), candidates[0])
