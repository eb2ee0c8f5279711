"""What the model says, as the reply carries it: texts, and which label of a project's closed set it means."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from backend.job import Candidate, LabelReply, RegionReply, TextReply

if TYPE_CHECKING:
    from model import Segment, Text


_WORD = 6.0
"""So much more the model counts beside the memory where it is certain of a label that the memory does not know."""


def text_reply(text: Text) -> TextReply:
    return TextReply(string=text.string, score=min(1.0, math.exp(text.mean_logprob)), finished=text.finished)


def best_label(
    candidates: Sequence[Candidate], log_likelihoods: Mapping[str, float], memory: Mapping[str, float] = {}
) -> LabelReply:
    """The likeliest label, and its probability among all labels of the set.

    A label is as likely as its names together; probabilities are normalised over the set (softmax), since the answer
    must be one of them. What the label memory is sure of is taken from it, and the model decides about the rest; that
    counts the more, the more likely it is that the model would say one of the labels that the memory does not know.

    Args:
        candidates: at least one.
        log_likelihoods: natural logarithm, of each name as the whole answer.
        memory: of the labels that it knows their probabilities, together at most 1.
    """
    sums = [_log_sum([log_likelihoods[name] for name in candidate.names]) for candidate in candidates]
    whole, sure = _log_sum(sums), sum(memory.values())
    unknown = sum(math.exp(one) for one, c in zip(sums, candidates, strict=True) if c.label not in memory)
    rest = (1.0 - sure) * (1.0 + _WORD * unknown if memory else 1.0)
    shares = [rest / (sure + rest) * math.exp(one - whole) for one in sums]
    given = [memory.get(candidate.label, 0.0) / (sure + rest) for candidate in candidates]
    both = [share + more for share, more in zip(shares, given, strict=True)]
    best = max(range(len(both)), key=both.__getitem__)
    next_best = max((value for place, value in enumerate(both) if place != best), default=0.0)
    return LabelReply(
        label=candidates[best].label,
        probability=min(1.0, both[best]),
        margin=min(1.0, both[best] - next_best),
        memory=given[best] if memory else None,
    )


def region_reply(
    region: Segment,
    mask: dict[str, Any],
    texts: dict[str, TextReply],
    labels: tuple[LabelReply, ...],
    features: str = "",
) -> RegionReply:
    """A region, its mask as `to_rle` packs it, and what is said of it."""
    from model.values.mask import rle_area

    return RegionReply(
        mask=mask,
        area=rle_area(mask),
        iou=min(max(getattr(region, "score", region.iou), 0.0), 1.0),
        object_score=region.object_score,
        stability=region.stability,
        texts=texts,
        labels=labels,
        features=features,
    )


def _log_sum(values: Sequence[float]) -> float:
    top = max(values)
    return top if math.isinf(top) else top + math.log(sum(math.exp(value - top) for value in values))
