"""Saying "object" rather than inventing a class: the words that a checkpoint has for what it does not know.

A checkpoint asks for it in generation_config.json: `"unsure": {"threshold": 0.35, "labels": ["object", " object"]}`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import LogitsProcessor, PreTrainedTokenizerBase

from model.errors import CheckpointError

LEAST_PROBABILITY = 0.01
"""A word that the model all but rules out here is never put in: a sentence may be unsure of a place or a colour, where
the name of a thing would be out of place."""


@dataclass(frozen=True)
class Unsure:
    """When and with what an unsure model answers.

    Attributes:
        threshold: probability, above 0 and up to 1; below it the likeliest token counts as a guess.
        first_ids: the first token of each label.
    """

    threshold: float
    first_ids: tuple[int, ...]

    @classmethod
    def read(cls, value: Any, tokenizer: PreTrainedTokenizerBase, file: object) -> Unsure:
        """Check the `unsure` entry of generation_config.json; `file` is what the message names.

        Raises:
            CheckpointError: the entry is not an object of a threshold and labels, or a label has no tokens.
        """
        form = f'{file} has unsure {value!r}: give {{"threshold": number up to 1, "labels": [words]}} or leave it out'
        if not isinstance(value, dict) or set(value) != {"threshold", "labels"}:
            raise CheckpointError(form)
        threshold, labels = value["threshold"], value["labels"]
        if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 < threshold <= 1:
            raise CheckpointError(form)
        if not isinstance(labels, list) or not labels or not all(isinstance(label, str) for label in labels):
            raise CheckpointError(form)
        tokens = [tokenizer(label, add_special_tokens=False)["input_ids"] for label in labels]
        for label, ids in zip(labels, tokens, strict=True):
            if not ids:
                raise CheckpointError(f"{file} has the unsure label {label!r}, which has no tokens: leave it out")
        return cls(float(threshold), tuple(dict.fromkeys(int(ids[0]) for ids in tokens)))


class PreferUnsure(LogitsProcessor):
    """Where the likeliest token is a guess and a label's first token is possible, leaves only the likeliest of those.

    For greedy decoding; it belongs before other processors, since it judges the model's own probabilities.
    """

    def __init__(self, unsure: Unsure) -> None:
        self.unsure = unsure
        self._labels = torch.tensor(unsure.first_ids)

    def __call__(self, input_ids: Sequence[int] | torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Logits (B, V) → logits of the same shape and dtype."""
        chances = scores.float().softmax(dim=-1)
        labels = self._labels = self._labels.to(scores.device)  # copied there once
        best = chances[:, labels].max(dim=-1)
        guessing = (chances.amax(dim=-1) < self.unsure.threshold) & (best.values >= LEAST_PROBABILITY)
        only = torch.full_like(scores, -torch.inf).scatter(1, labels[best.indices][:, None], 0.0)
        return torch.where(guessing[:, None], only, scores)
