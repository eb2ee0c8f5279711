"""What the rows of the token step are at, in buffers whose addresses stay, and how the next token is chosen in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional
from transformers import Qwen2ForCausalLM

ROWS = 128
"""Rows of the largest bucket."""

STOPS = 8
"""End tokens at most."""

MOST = 1024
"""Tokens of an answer at most."""


@dataclass(frozen=True)
class Shape:
    """A bucket: R regions × T texts behind a prefix of so many columns, with so many columns of their own."""

    regions: int
    texts: int
    length: int
    room: int

    @property
    def rows(self) -> int:
        return self.regions * self.texts


def bucket(count: int) -> int:
    """The power of two that is large enough."""
    return 1 << (count - 1).bit_length()


@dataclass(frozen=True)
class Greedy:
    """What is done to the logits before the largest is taken, in this order.

    Attributes:
        threshold: a likeliest token with a lower probability gives way to the likeliest label; 0 never.
        labels: first tokens of labels, none where threshold is 0.
        least: probability that a label must have.
        penalty: of tokens that a row has said; 1 is none.
    """

    threshold: float = 0.0
    labels: tuple[int, ...] = ()
    least: float = 0.0
    penalty: float = 1.0


class State:
    """What rows are at, in buffers whose addresses stay."""

    def __init__(self, device: torch.device, dtype: torch.dtype, hidden: int, words: int, own: int) -> None:
        def some(*shape: int, dtype: torch.dtype = torch.int64) -> torch.Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self.newest, self.places, self.owner, self.limits = some(ROWS), some(ROWS), some(ROWS), some(ROWS)
        self.slot, self.said_count = some(1), some(1)
        self.columns = torch.arange(own, device=device)
        self.hidden = some(ROWS, hidden, dtype=dtype)
        self.ended = some(ROWS, dtype=torch.bool)
        self.seen = some(own, dtype=torch.bool)
        self.said = some(ROWS, words, dtype=torch.bool)
        self.stops = torch.full((STOPS,), -1, dtype=torch.int64, device=device)
        # one row more, for what is left over of buckets
        self.ids = some(ROWS + 1, MOST)
        self.logprobs = some(ROWS + 1, MOST, dtype=torch.float32)
        self.penalty, self.threshold, self.least = (torch.ones(1, device=device) for _ in range(3))
        self.labels = some(words, dtype=torch.bool)

    def seen_view(self, shape: Shape) -> torch.Tensor:
        """(rows, room): which of a row's own columns it sees."""
        return self.seen[: shape.rows * shape.room].view(shape.rows, shape.room)

    def begin(
        self, count: int, alive: torch.Tensor, greedy: Greedy, ends: Sequence[int], limits: Sequence[int]
    ) -> None:
        """For a bucket of so many rows, of which those at the places `alive` are asked for."""
        device = self.newest.device
        self.owner.fill_(ROWS)
        self.owner[alive] = torch.arange(len(alive), device=device)
        self.ended[:count] = True
        self.ended[alive] = False
        self.limits[alive] = torch.tensor(list(limits), device=device).repeat(len(alive) // len(limits))
        self.stops.copy_(torch.tensor([*ends, *[-1] * (STOPS - len(ends))]))
        self.said[:count] = False
        self.said_count.zero_()
        self.penalty.fill_(greedy.penalty)
        self.threshold.fill_(greedy.threshold)
        self.least.fill_(greedy.least)
        self.labels.zero_()
        if greedy.labels:
            self.labels[list(greedy.labels)] = True

    def choose(self, model: Qwen2ForCausalLM, count: int) -> None:
        """The next token of each row from its hidden vector: words for a guess, penalty, the largest, the end."""
        logits = functional.linear(self.hidden[:count], model.lm_head.weight).float()
        total = logits.logsumexp(-1, keepdim=True)
        # as `PreferUnsure` and transformers' repetition penalty do it
        best = logits.masked_fill(~self.labels, -torch.inf).max(-1, keepdim=True)
        guessing = ((logits.amax(-1, keepdim=True) - total).exp() < self.threshold) & (
            (best.values - total).exp() >= self.least
        )
        only = torch.full_like(logits, -torch.inf).scatter(1, best.indices, 0.0)
        scores = torch.where(guessing, only, logits)
        punished = torch.where(scores < 0, scores * self.penalty, scores / self.penalty)
        chosen = torch.where(self.said[:count], punished, scores).argmax(-1)
        self.said[:count].scatter_(1, chosen[:, None], True)
        owner = self.owner[:count]
        self.ids.index_put_((owner, self.said_count), chosen)
        self.logprobs.index_put_((owner, self.said_count), (logits.gather(1, chosen[:, None]) - total)[:, 0])
        over = (chosen[:, None] == self.stops).any(-1) | (self.said_count + 1 >= self.limits[:count])
        self.ended[:count].logical_or_(over)
        self.newest[:count] = chosen
        self.said_count.add_(1)

    def move(self, old: Shape, new: Shape, rows: torch.Tensor, fresh: torch.Tensor) -> None:
        """Some rows to the places of a smaller bucket; those that are not `fresh` are left over."""
        count = new.rows
        self.seen_view(new).copy_(self.seen_view(old)[rows])
        for one in (self.newest, self.places, self.owner, self.limits, self.ended, self.hidden, self.said):
            one[:count] = one[rows]
        self.owner[:count].masked_fill_(~fresh, ROWS)
        self.ended[:count].logical_or_(~fresh)

    def copy(self) -> dict[str, torch.Tensor]:
        """Everything as it is."""
        return {name: value.clone() for name, value in vars(self).items()}

    def put_back(self, before: dict[str, torch.Tensor]) -> None:
        """Everything as it was."""
        for name, value in before.items():
            getattr(self, name).copy_(value)
