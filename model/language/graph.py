"""A token step whose shapes never change, replayed as a CUDA graph.

A step of the token loop is hundreds of small kernels, and on a GPU launching them takes longer than they run. A graph
launches them at once, but only with the same shapes at the same addresses: rows that have ended stay until all have.
"""

from __future__ import annotations

import logging

import torch
from transformers import Qwen2ForCausalLM

from model.language.prefix import KeyValues, Prefix, read_on

_EAGER_STEPS = 2
"""Steps before a graph is captured: what kernels prepare once must not be part of it."""

log = logging.getLogger(__name__)


class FixedStep:
    """Reads one token for each row; captured and replayed on a GPU, computed as it stands elsewhere.

    Args:
        model, prefix, kept: of the rows, which belong to this object from now on.
        seen: (B, room) boolean, which of a row's own tokens it sees.
        places: (B,) int64, position of each row's next token.
        hidden: (B, hidden) behind the newest token of each row.
    """

    def __init__(
        self,
        model: Qwen2ForCausalLM,
        prefix: Prefix,
        kept: KeyValues,
        seen: torch.Tensor,
        places: torch.Tensor,
        hidden: torch.Tensor,
    ) -> None:
        self._model, self._prefix, self._kept = model, prefix, kept
        self._ids = torch.zeros_like(places)
        self._slot = torch.tensor([kept.used], device=hidden.device)
        self._columns = torch.arange(kept.room, device=hidden.device)
        # the room behind the newest token holds nothing yet: it is seen column by column, as it fills
        self._seen = seen & (self._columns < kept.used)
        self._places, self._hidden = places.clone(), hidden.clone()
        self._done = 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        """The hidden vectors (B, hidden) behind the new tokens (B,)."""
        self._ids.copy_(ids)
        if self._graph is not None:
            self._graph.replay()
        elif self._ids.is_cuda and self._done >= _EAGER_STEPS:
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._compute()
            self._graph.replay()
        else:
            self._compute()
        self._done += 1
        return self._hidden

    def _compute(self) -> None:
        """From buffers into buffers, no number of it on the host."""
        self._seen.logical_or_(self._columns == self._slot)
        vectors = self._model.get_input_embeddings()(self._ids)[:, None]
        self._kept.slot = self._slot
        out = read_on(self._model, self._prefix, self._kept, vectors, self._seen[:, None, None], self._places[:, None])
        self._hidden.copy_(out[:, -1])
        self._places.add_(1)
        self._slot.add_(1)
