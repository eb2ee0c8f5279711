"""What the model says, as the reply carries it: texts, and which label of a project's closed set it means."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from backend.job import Candidate, LabelReply, TextReply

if TYPE_CHECKING:
    from model import Text


def text_reply(text: Text) -> TextReply:
    return TextReply(string=text.string, score=min(1.0, math.exp(text.mean_logprob)), finished=text.finished)


def best_label(candidates: Sequence[Candidate], log_likelihoods: Mapping[str, float]) -> LabelReply:
    """The likeliest label, and its probability among all labels of the set.

    A label is as likely as its names together; probabilities are normalised over the set (softmax), since the answer
    must be one of them.

    Args:
        candidates: at least one.
        log_likelihoods: natural logarithm, of each name as the whole answer.
    """
    sums = [_log_sum([log_likelihoods[name] for name in candidate.names]) for candidate in candidates]
    best = max(range(len(sums)), key=sums.__getitem__)
    return LabelReply(label=candidates[best].label, probability=min(1.0, math.exp(sums[best] - _log_sum(sums))))


def _log_sum(values: Sequence[float]) -> float:
    top = max(values)
    return top if math.isinf(top) else top + math.log(sum(math.exp(value - top) for value in values))
