"""Seconds of stages on a device that runs behind: CUDA takes orders at once and carries them out later."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch

Mark = float | torch.cuda.Event
"""A moment: of the host, or one in a GPU's own order of work."""


@dataclass(frozen=True)
class Span:
    """From one moment to another; nothing waits for the device before `seconds` is asked for.

    Attributes:
        begin: when what lies before was done.
        end: when the stage was done.
        parts: among how many the time is shared.
    """

    begin: Mark
    end: Mark
    parts: int = 1

    def shared(self, parts: int) -> Span:
        """The share of one of so many."""
        return replace(self, parts=self.parts * parts)

    def seconds(self) -> float:
        """How long it took; waits until the stage is done."""
        if isinstance(self.begin, float) or isinstance(self.end, float):
            assert isinstance(self.begin, float) and isinstance(self.end, float)
            return (self.end - self.begin) / self.parts
        self.end.synchronize()
        return float(self.begin.elapsed_time(self.end)) / 1e3 / self.parts


class Clock:
    """Marks moments on a device: on CUDA by events, which cost microseconds; elsewhere by the host's clock."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def now(self) -> Mark:
        """Behind all that was asked of the device so far."""
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def since(self, begin: Mark) -> Span:
        """From a moment to now."""
        return Span(begin, self.now())
