"""How much goes through the model at once: as much as fits, and less when it turns out not to fit."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

_SHARE = 0.6  # of the free memory; activations and fragments take the rest

log = logging.getLogger(__name__)


def fitting(device: torch.device, bytes_each: int, most: int) -> int:
    """How many items of so many bytes fit into a GPU's free memory, 1 to `most`; elsewhere `most`."""
    if device.type != "cuda" or bytes_each <= 0:
        return most
    free, _ = torch.cuda.mem_get_info(device)
    # what torch holds and does not use is free too
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return max(1, min(most, int(free * _SHARE / bytes_each)))


def in_batches(items: Sequence[Item], work: Callable[[Sequence[Item]], Sequence[Result]], most: int) -> list[Result]:
    """The results of `work` on batches of at most `most` items; a batch that runs out of memory is tried in halves.

    Raises:
        torch.OutOfMemoryError: even a single item does not fit.
    """
    results: list[Result] = []
    size = max(1, most)
    while len(results) < len(items):
        part = items[len(results) : len(results) + size]
        try:
            results += work(part)
        except torch.OutOfMemoryError:
            if len(part) == 1:
                raise
            size = len(part) // 2
            log.warning("out of memory with %d at once: going on with %d", len(part), size)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
    return results
