"""How much goes through the model at once: as much as fits, and less when it turns out not to fit."""

from __future__ import annotations

import gc
import logging
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from model.compute.device import free_bytes

Item = TypeVar("Item")
Result = TypeVar("Result")

_SHARE = 0.6  # of the free memory; fragments and what a library takes for itself have the rest

log = logging.getLogger(__name__)


def fitting(device: torch.device, bytes_each: int, most: int, besides: int = 0) -> int:
    """How many items of so many bytes fit into the device's free memory, 1 to `most`; `most` where that is unknown.

    `besides` is what a batch takes however many items it has, in bytes.
    """
    free = free_bytes(device)
    if free is None or bytes_each <= 0:
        return most
    return max(1, min(most, int((free * _SHARE - besides) / bytes_each)))


def batch_by_batch(items: Sequence[Item], work: Callable[[Sequence[Item]], Result], most: int) -> Iterator[Result]:
    """The results of `work` on batches of at most `most` items; a batch that runs out of memory is tried in halves.

    No result is held here while the next one is computed.

    Raises:
        torch.OutOfMemoryError, RuntimeError: even a single item does not fit.
    """
    done, size = 0, max(1, most)
    while done < len(items):
        part = items[done : done + size]
        found = _tried(work, part)
        if not found:
            # outside of the handler: the error is gone, and what its frames held with it
            size = len(part) // 2
            log.warning("out of memory with %d at once: going on with %d", len(part), size)
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            continue
        done += len(part)
        yield found.pop()


def _tried(work: Callable[[Sequence[Item]], Result], part: Sequence[Item]) -> list[Result]:
    """The result, or nothing where memory ran out and fewer items may fit."""
    try:
        return [work(part)]
    except (RuntimeError, MemoryError) as error:
        if len(part) == 1 or not _out_of_memory(error):
            raise
        # the frames of the failed call hold its tensors
        traceback.clear_frames(error.__traceback__)
        return []


def in_batches(items: Sequence[Item], work: Callable[[Sequence[Item]], Sequence[Result]], most: int) -> list[Result]:
    """The same for work that has one result for each item: all of them."""
    return [result for results in batch_by_batch(items, work, most) for result in results]


def _out_of_memory(error: Exception) -> bool:
    # on the CPU torch raises a bare RuntimeError
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "allocate memory" in str(error)
