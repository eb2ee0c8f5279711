"""Answers for a grid of regions and questions: each region's prompt is read once, all answers are drawn together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from transformers import LogitsProcessorList, Qwen2ForCausalLM

from model.language.prefix import KeyValues, Prefix, read_on

_LOOK_EVERY = 8
"""Steps between two looks at which rows are finished, on a GPU: each look waits for everything queued before it."""


@dataclass(frozen=True)
class Drawn:
    """Tokens of R·T rows, region by region: ids (R·T, N) int64 and log-probabilities (R·T, N) float32, both on the CPU.

    What follows a row's end token, or its limit, has no meaning.
    """

    ids: torch.Tensor
    logprobs: torch.Tensor


@dataclass(frozen=True)
class Choice:
    """How the next token is drawn from its logits.

    Attributes:
        processors: change the logits before, as in transformers.
        temperature: 0 is greedy.
        top_k: only so many are drawn from; 0 is all. For temperature > 0.
    """

    processors: LogitsProcessorList
    temperature: float = 0.0
    top_k: int = 0

    def __call__(self, before: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """The next ids (B,) from the ids before (B, n) and the logits (B, V)."""
        scores: torch.Tensor = self.processors(before, logits)  # type: ignore[arg-type]  # says LongTensor, means int64
        if self.temperature == 0:
            return scores.argmax(-1)
        scores = scores / self.temperature
        if self.top_k:
            least = scores.topk(min(self.top_k, scores.shape[-1])).values[:, -1:]
            scores = scores.masked_fill(scores < least, -torch.inf)
        return torch.multinomial(scores.softmax(-1), 1)[:, 0]


@torch.no_grad()
def read_prefix(model: Qwen2ForCausalLM, prompts: torch.Tensor) -> Prefix:
    """Read the common beginnings (R, L, hidden) of R prompts once."""
    kept = KeyValues(prompts.shape[1])
    model.model(inputs_embeds=prompts, past_key_values=kept, use_cache=True)
    kept.advance(prompts.shape[1])
    return kept.prefix()


class Grid:
    """R regions × T questions under way; rows lie region by region.

    Args:
        model: with `model.language.prefix.attend` as its attention.
        prefix: of the regions.
        questions: T lists of token ids that follow the prefix.
        room: tokens that will follow the questions at most.

    Attributes:
        hidden: (R·T, hidden) behind the newest token of each row.
        seen: (R·T, width + room) boolean, which of a row's own tokens it sees.
        places: (R·T,) int64, position of each row's next token.
    """

    def __init__(
        self,
        model: Qwen2ForCausalLM,
        prefix: Prefix,
        questions: Sequence[Sequence[int]],
        room: int,
    ) -> None:
        self.model = model
        self.prefix = prefix
        regions, width, device = prefix.regions, max(len(ids) for ids in questions), prefix.device
        table = model.get_input_embeddings()
        # padded on the left, so that every row's next token lies in the same column
        pads = torch.tensor([width - len(ids) for ids in questions], device=device)
        ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in questions], device=device)
        columns = torch.arange(width, device=device)
        real = columns >= pads[:, None]
        causal = columns[:, None] >= columns[None, :]
        # padding sees itself, or softmax would have nothing to weigh
        seen = (causal & real[:, None, :]) | torch.eye(width, dtype=torch.bool, device=device)
        self.kept = KeyValues(width + room)
        self.seen = torch.ones(len(questions), width + room, dtype=torch.bool, device=device)
        self.seen[:, :width] = real
        self.seen = self.seen.repeat(regions, 1)
        self.places = (prefix.length + width - pads).repeat(regions)
        out = self._read(
            table(ids).repeat(regions, 1, 1),
            seen[:, None].repeat(regions, 1, 1, 1),
            (prefix.length + (columns - pads[:, None]).clamp(min=0)).repeat(regions, 1),
        )
        self.hidden = out[:, -1]

    def _read(self, vectors: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        return read_on(self.model, self.prefix, self.kept, vectors, mask, positions)

    def logits(self) -> torch.Tensor:
        """(R·T, V) float32 for the next token of each row."""
        logits: torch.Tensor = self.model.lm_head(self.hidden).float()
        return logits

    def step(self, ids: torch.Tensor) -> None:
        """Read the next token (R·T,) of each row."""
        end = self.kept.used + 1
        vectors = self.model.get_input_embeddings()(ids)[:, None]
        self.hidden = self._read(vectors, self.seen[:, None, None, :end], self.places[:, None])[:, -1]
        self.places = self.places + 1

    def read(self, ids: torch.Tensor, seen: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Read tokens (S,) behind every row, and forget them again: hidden (R·T, S, hidden).

        Args:
            ids: the same for all rows.
            seen: (S, S) boolean, which of them sees which.
            places: (S,) int64, 0 for one that follows the row directly.
        """
        rows, count = len(self.places), len(ids)
        past = self.seen[:, None, None, : self.kept.used].expand(-1, -1, count, -1)
        mask = torch.cat([past, seen[None, None].expand(rows, -1, -1, -1)], dim=-1)
        vectors = self.model.get_input_embeddings()(ids).expand(rows, -1, -1)
        out = self._read(vectors, mask, self.places[:, None] + places)
        self.kept.advance(-count)
        return out

    def keep(self, regions: torch.Tensor | None, rows: torch.Tensor) -> None:
        """Only some rows go on, and, unless None, some regions; numbers int64, rows region by region."""
        if regions is not None:
            self.prefix = self.prefix.take(regions)
        self.kept.keep(rows)
        self.seen, self.places, self.hidden = self.seen[rows], self.places[rows], self.hidden[rows]


class UnderWay(Protocol):
    """Rows that tokens are drawn for."""

    prefix: Prefix

    @property
    def hidden(self) -> torch.Tensor:
        """(B, hidden), behind the newest token of each row."""

    def logits(self) -> torch.Tensor:
        """(B, V) float32."""

    def step(self, ids: torch.Tensor) -> None:
        """Read the next token of each row."""

    def keep(self, regions: torch.Tensor | None, rows: torch.Tensor) -> None:
        """Only some rows go on."""


@torch.no_grad()
def draw(grid: UnderWay, choose: Choice, ends: Sequence[int], limits: Sequence[int]) -> Drawn:
    """Draw at most so many tokens for each question; rows that are done leave, by whole questions and regions."""
    rows, most = len(grid.hidden), max(limits)
    device = grid.hidden.device
    every = 1 if device.type == "cpu" else _LOOK_EVERY
    ids = torch.zeros(rows, most, dtype=torch.int64, device=device)
    logprobs = torch.zeros(rows, most, device=device)
    stops = torch.tensor(list(ends), dtype=torch.int64, device=device)
    alive = torch.arange(rows, device=device).view(grid.prefix.regions, -1)
    ended = torch.zeros(rows, dtype=torch.bool, device=device)
    longest = torch.tensor(list(limits), device=device).repeat(grid.prefix.regions)
    length = most
    for step in range(most):
        here = alive.flatten()
        logits = grid.logits()
        chosen = choose(ids[here, :step], logits)
        ids[here, step] = chosen
        logprobs[here, step] = _logprobs(logits, chosen)
        ended[here] |= torch.isin(chosen, stops)
        if step + 1 in limits:
            ended |= longest <= step + 1
        if step + 1 == most:
            break
        if (step + 1) % every == 0:
            going = (~ended[alive]).cpu()  # the one wait of a look
            if not bool(going.any()):
                length = step + 1
                break
            alive, chosen = _leave(grid, alive, going, chosen)
        grid.step(chosen)
    return Drawn(ids[:, :length].cpu(), logprobs[:, :length].float().cpu())


def _leave(
    grid: UnderWay, alive: torch.Tensor, going: torch.Tensor, chosen: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Drop questions that are answered for all regions, and regions once half of them have all their answers.

    (A region's keys and values must be copied to move, a question's are few.) `going` (regions, questions), on the
    host, says which rows go on; returns the numbers of the rows left and their newest tokens.
    """
    columns, lines = going.any(0), going.any(1)
    fewer = int(lines.sum()) * 2 <= len(lines)
    if bool(columns.all()) and not fewer:
        return alive, chosen
    lines = lines if fewer else torch.ones_like(lines)
    kept = torch.arange(alive.numel()).view(going.shape)[lines][:, columns]
    rows = kept.flatten().to(alive.device)
    grid.keep(lines.nonzero()[:, 0].to(alive.device) if fewer else None, rows)
    return alive.flatten()[rows].view(kept.shape), chosen[rows]


def _logprobs(logits: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Log-probabilities (B,) of the chosen tokens (B,)."""
    picked = chosen[:, None]
    if logits.device.type == "cpu":  # one pass there, where a logsumexp is five
        return logits.log_softmax(-1).gather(1, picked)[:, 0]
    return logits.gather(1, picked)[:, 0] - logits.logsumexp(-1)
