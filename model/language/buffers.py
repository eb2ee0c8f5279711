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
    """What rows are at, in buffers whose addresses stay. Rows begin and end at any time: each counts for itself."""

    def __init__(self, device: torch.device, dtype: torch.dtype, hidden: int, words: int, room: int) -> None:
        def some(*shape: int, dtype: torch.dtype = torch.int64) -> torch.Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self.newest, self.places, self.limits = some(ROWS), some(ROWS), some(ROWS)
        # a row's own columns are seen from the first to that of its newest token
        self.first, self.slot, self.said_count = some(ROWS), some(ROWS), some(ROWS)
        self.hidden = some(ROWS, hidden, dtype=dtype)
        self.ended = torch.ones(ROWS, dtype=torch.bool, device=device)
        self.said = some(ROWS, words, dtype=torch.bool)
        self.stops = torch.full((STOPS,), -1, dtype=torch.int64, device=device)
        # of what is written: a line for each row that was asked for, one more for what is left over of buckets, and a
        # column more for rows that have ended
        self.owner = torch.full((ROWS,), ROWS, dtype=torch.int64, device=device)
        self.ids = some(ROWS + 1, MOST + 1)
        self.logprobs = some(ROWS + 1, MOST + 1, dtype=torch.float32)
        self.penalty, self.threshold, self.least = (torch.ones(1, device=device) for _ in range(3))
        self.labels = some(words, dtype=torch.bool)
        self.order, self.columns = torch.arange(ROWS, device=device), torch.arange(room, device=device)

    @property
    def _of_rows(self) -> tuple[torch.Tensor, ...]:
        return (
            *(self.newest, self.places, self.limits, self.first, self.slot, self.said_count),
            *(self.hidden, self.ended, self.said, self.owner),
        )

    def begin(self, greedy: Greedy, ends: Sequence[int]) -> None:
        """How tokens are chosen from now on."""
        self.stops.copy_(torch.tensor([*ends, *[-1] * (STOPS - len(ends))]))
        self.penalty.fill_(greedy.penalty)
        self.threshold.fill_(greedy.threshold)
        self.least.fill_(greedy.least)
        self.labels.zero_()
        if greedy.labels:
            self.labels[list(greedy.labels)] = True

    def enter(
        self, rows: torch.Tensor, lines: torch.Tensor, limits: torch.Tensor, first: torch.Tensor, used: int
    ) -> None:
        """Rows that begin, at their places in the bucket: what they see of their own ends before column `used`.

        Their `hidden` and `places` are the caller's to set.
        """
        self.owner[rows] = lines
        self.limits[rows] = limits
        self.first[rows] = first
        self.slot[rows] = used
        self.said_count[rows] = 0
        self.said[rows] = False
        self.ended[rows] = False

    def clear(self, start: int, stop: int) -> None:
        """Nothing is at these places of the bucket."""
        self.owner[start:stop] = ROWS
        self.ended[start:stop] = True
        for one in (self.newest, self.places, self.first, self.slot, self.said_count):
            one[start:stop] = 0
        self.hidden[start:stop] = 0

    def own_mask(self, shape: Shape) -> torch.Tensor:
        """(rows, 1, 1, room) float32: 0 where a row sees its own columns, that of the newest token too, else -inf."""
        columns, count = self.columns[: shape.room], shape.rows
        seen = (columns >= self.first[:count, None]) & (columns <= self.slot[:count, None])
        return torch.where(seen, 0.0, -torch.inf)[:, None, None]

    def advance(self, shape: Shape) -> None:
        """After a step: the next token comes behind. What has ended stays inside its room."""
        count = shape.rows
        self.places[:count].add_(1)
        self.slot[:count].add_(1).clamp_(max=shape.room - 1)

    def choose(self, model: Qwen2ForCausalLM, rows: torch.Tensor) -> None:
        """The next token of rows from their hidden vectors: words for a guess, penalty, the largest, the end."""
        logits = functional.linear(self.hidden[rows], model.lm_head.weight).float()
        total = logits.logsumexp(-1, keepdim=True)
        # as `PreferUnsure` and transformers' repetition penalty do it
        best = logits.masked_fill(~self.labels, -torch.inf).max(-1, keepdim=True)
        guessing = ((logits.amax(-1, keepdim=True) - total).exp() < self.threshold) & (
            (best.values - total).exp() >= self.least
        )
        only = torch.full_like(logits, -torch.inf).scatter(1, best.indices, 0.0)
        scores = torch.where(guessing, only, logits)
        punished = torch.where(scores < 0, scores * self.penalty, scores / self.penalty)
        chosen = torch.where(self.said[rows], punished, scores).argmax(-1)
        # a line may be another's when its row has ended
        owner, count = self.owner[rows].masked_fill(self.ended[rows], ROWS), self.said_count[rows]
        self.said.index_put_((rows, chosen), torch.ones_like(chosen, dtype=torch.bool))
        self.ids.index_put_((owner, count), chosen)
        self.logprobs.index_put_((owner, count), (logits.gather(1, chosen[:, None]) - total)[:, 0])
        over = (chosen[:, None] == self.stops).any(-1) | (count + 1 >= self.limits[rows])
        self.ended.index_put_((rows,), self.ended[rows] | over)
        self.newest.index_put_((rows,), chosen)
        self.said_count.index_put_((rows,), (count + 1).clamp(max=MOST))

    def move(self, new: Shape, rows: torch.Tensor, fresh: torch.Tensor) -> None:
        """Rows to the places of another bucket; at those that are not `fresh` there is nothing."""
        count = new.rows
        for one in self._of_rows:
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
