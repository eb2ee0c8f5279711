"""What `compile` adds: a token step whose shapes never change, replayed as a CUDA graph, and a compiled image encoder.

A step of the token loop is hundreds of small kernels, and on a GPU launching them takes longer than they run. A graph
launches them at once, but only with the same shapes at the same addresses: rows that have ended stay until all have.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch

from model.tower import Tower

if TYPE_CHECKING:
    from model.decoding import Grid

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


def compile_encoder(tower: Tower) -> bool:
    """Compile SAM 2's image encoder, with a picture of zeros as a trial; False where that fails: it runs as before."""
    encoder = tower.sam.image_encoder
    encoder.compile(dynamic=False)
    try:
        tower.try_encoder()
    except Exception as error:
        encoder._compiled_call_impl = None
        reason = str(error).strip().splitlines()
        log.warning("SAM 2's encoder is not compiled (%s): it runs as it is", reason[0] if reason else error)
        return False
    return True
