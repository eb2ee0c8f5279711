"""A token step whose shapes never change, replayed as a CUDA graph.

A step of the token loop is hundreds of small kernels, and on a GPU launching them takes longer than they run. A graph
launches them at once, but only with the same shapes at the same addresses: rows that have ended stay until all have.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from model.language.grid import Grid

_EAGER_STEPS = 2
"""Steps before a graph is captured: what kernels prepare once must not be part of it."""

log = logging.getLogger(__name__)


class FixedStep:
    """Reads one token for each row of a grid; captured and replayed on a GPU, computed as it stands elsewhere."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        rows, device = len(grid.hidden), grid.hidden.device
        self._ids = torch.zeros(rows, dtype=torch.int64, device=device)
        self._slot = torch.tensor([grid.kept.used], device=device)
        self._columns = torch.arange(grid.kept.room, device=device)
        self._seen = grid.seen.clone()
        self._places = grid.places.clone()
        self._hidden = torch.zeros_like(grid.hidden)
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
        grid = self._grid
        self._seen.logical_or_(self._columns == self._slot)
        vectors = grid.model.get_input_embeddings()(self._ids)[:, None]
        out = grid.forward(vectors, self._seen[:, None, None], self._places[:, None], slot=self._slot)
        self._hidden.copy_(out[:, -1])
        self._places.add_(1)
        self._slot.add_(1)
