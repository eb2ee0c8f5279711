"""Rows of the token step that stays, for tokens that are drawn by chance: they are drawn outside of the step."""

from __future__ import annotations

import torch
from torch.nn import functional

from model.language.grid import Grid
from model.language.resident import Resident


class ByChance:
    """A grid's rows in a bucket of their own; stands for the grid where tokens are drawn by chance (`grid.draw`)."""

    def __init__(self, resident: Resident, grid: Grid, most: int) -> None:
        regions, count, used = grid.prefix.regions, len(grid.hidden), grid.kept.used
        texts, state, device = count // regions, resident.state, resident.device
        shape = resident.shape(regions, texts, grid.prefix.length, used + most)
        assert shape is not None
        self._resident, self._shape = resident, shape
        self.prefix = grid.prefix
        numbers = torch.arange(count, device=device)
        self._alive = numbers // texts * shape.texts + numbers % texts
        state.clear(0, shape.rows)
        resident.take(shape, grid, self._alive, torch.arange(regions, device=device))
        state.first[self._alive] = (~grid.seen[:, :used]).sum(1)
        state.slot[self._alive] = used

    @property
    def hidden(self) -> torch.Tensor:
        """Behind the newest token of each row that is alive."""
        return self._resident.state.hidden[self._alive]

    def logits(self) -> torch.Tensor:
        """(rows alive, V) float32."""
        logits: torch.Tensor = functional.linear(self.hidden, self._resident.model.lm_head.weight).float()
        return logits

    def step(self, ids: torch.Tensor) -> None:
        """Read the next token of each row that is alive."""
        self._resident.state.newest[self._alive] = ids
        self._resident.run(self._shape, False)

    def keep(self, regions: torch.Tensor | None, rows: torch.Tensor) -> None:
        """Only some rows go on; they stay where they are."""
        self._alive = self._alive[rows]
