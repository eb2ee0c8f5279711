"""From what is measured of a candidate to a score: how often such candidates were right, 0..1.

Logistic regressions, fitted on generated scenes with `python -m tiny.evaluation --count 0 --find 50 --fit`, which
prints these numbers. Other checkpoints measure other things; their scores order candidates as well, and are less exact.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

MEASURES = ("likeness", "against", "fit", "iou", "stability", "growth")
"""-ln of the distance to the nearest example; how much nearer a counter-example is; ln of the words' likelihood against
that of the model's own words; predicted IoU; stability; |ln| of the size against the example's."""

BY_EXAMPLE: Mapping[str, float] = {
    **{"": -17.097, "likeness": 4.837, "against": -5.307, "growth": -1.049, "iou": 4.724, "stability": 5.167}
}
BY_WORD: Mapping[str, float] = {"": -0.92, "fit": 0.765, "iou": 1.411, "stability": 3.244}


def score(measures: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Scores (N,) in 0..1 of candidates by their measures, (N,) each: beside examples ("likeness"), against words
    ("fit"), or both. What both say is their geometric mean, so that neither outweighs the other's no."""
    scores = [_logistic(weights, measures) for name, weights in _BY if name in measures]
    return torch.stack(scores).log().mean(0).exp()


_BY = (("likeness", BY_EXAMPLE), ("fit", BY_WORD))


def _logistic(weights: Mapping[str, float], measures: Mapping[str, torch.Tensor]) -> torch.Tensor:
    total = sum(weight * measures[name] for name, weight in weights.items() if name) + weights[""]
    assert isinstance(total, torch.Tensor)
    return total.sigmoid().clamp(1e-6, 1 - 1e-6)
