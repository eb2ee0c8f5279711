"""A CUDA stream of an object's own: for graphs, whose buffers are the same in each call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

T = TypeVar("T")


class OwnStream:
    """On CUDA a stream and a memory pool; elsewhere nothing.

    Attributes:
        stream: None without CUDA.
        pool: for graphs that run one after the other and leave nothing in it that must stay; None without CUDA.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        cuda = device.type == "cuda"
        self.stream = torch.cuda.Stream(device) if cuda else None
        self.pool: Any = torch.cuda.graph_pool_handle() if cuda else None

    @contextmanager
    def here(self) -> Iterator[Any]:
        """On that device and stream, after what was asked before, and before what is asked next; gives the stream of
        the caller, None without CUDA."""
        if self.stream is None:
            yield None
            return
        with torch.cuda.device(self._device):
            outside = torch.cuda.current_stream(self._device)
            self.stream.wait_stream(outside)
            with torch.cuda.stream(self.stream):
                yield outside
            outside.wait_stream(self.stream)

    @contextmanager
    def beside(self) -> Iterator[None]:
        """On that device and stream, beside whatever the caller's stream does until `join`; what is read here must be
        there already, and nobody may write to it."""
        if self.stream is None:
            yield
            return
        with torch.cuda.device(self._device), torch.cuda.stream(self.stream):
            yield

    def capture(self, work: Callable[[], T]) -> tuple[torch.cuda.CUDAGraph, T]:
        """A graph of `work`, which has run here before, and what it gives: memory that each replay writes to.

        Raises:
            RuntimeError: `work` does what cannot be captured, or there is no room for it.
        """
        graph = torch.cuda.CUDAGraph()
        # other threads may use the device meanwhile
        capturing = torch.cuda.graph(graph, self.pool, self.stream, capture_error_mode="thread_local")
        with torch.cuda.device(self._device), capturing:
            found = work()
        return graph, found

    def join(self, tensors: Iterable[torch.Tensor]) -> None:
        """Let the caller's stream go on with what was made by all that was asked `beside` so far."""
        if self.stream is None:
            return
        caller = torch.cuda.current_stream(self._device)
        caller.wait_stream(self.stream)
        for tensor in tensors:
            tensor.record_stream(caller)
