"""CUDA graphs of an emulated GPU: while one is captured nothing is done; a replay does the same to the same memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._pytree import tree_map_only

from tests.gpu import streams

CAPTURING = "operation not permitted when stream is capturing"


class Graph:
    """Stands for `torch.cuda.CUDAGraph`: what was asked while it was captured, with the memory that it works on."""

    def __init__(self) -> None:
        self.device = torch.device("cuda", 0)
        self.replays = 0
        self._asked: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], list[torch.Tensor]]] = []
        self._fresh: dict[int, torch.Tensor] = {}
        self._before: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._read: set[int] = set()
        self._written: set[int] = set()

    def ask(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Remember a call; what it gives has the right shapes, and no numbers that mean anything."""
        for one in written(function, args, kwargs):
            whole = whole_of(one)
            self._written.add(whole.data_ptr())
            if whole.data_ptr() not in self._before and whole.data_ptr() not in self._fresh:
                self._before[whole.data_ptr()] = (whole, whole.clone())
        given = {whole_of(one).data_ptr() for one in tensors((args, kwargs))}
        self._read |= given
        found = function(*args, **kwargs)
        self._asked.append((function, args, kwargs, tensors(found)))
        for one in tensors(found):
            if whole_of(one).data_ptr() not in given:
                self.make(one)
        return found

    def make(self, one: torch.Tensor) -> torch.Tensor:
        """Memory of the graph's own."""
        whole = whole_of(one)
        self._fresh[whole.data_ptr()] = whole
        self._written.add(whole.data_ptr())
        return one

    def end(self) -> None:
        """What it wrote to is as before; what it made is nonsense until it is replayed."""
        for whole, before in self._before.values():
            whole.copy_(before)
        for whole in self._fresh.values():
            whole.fill_(0x7F)
        self._before.clear()

    def replay(self) -> None:
        """Do it all again."""
        if capturing() is not None:
            raise RuntimeError(f"{CAPTURING}: a replay")
        self.replays += 1
        streams.used(self.device, self._read, self._written, (), "a replay")
        for function, args, kwargs, found in self._asked:
            for old, new in zip(found, tensors(function(*args, **kwargs)), strict=True):
                if old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class _Here(threading.local):
    """Of a thread: the graph that it captures."""

    graph: Graph | None = None


_here = _Here()


def capturing() -> Graph | None:
    """What this thread captures just now."""
    return _here.graph


@contextmanager
def capture(graph: Graph, _: Any = None, stream: streams.Stream | None = None, **__: Any) -> Iterator[None]:
    """Stands for `torch.cuda.graph`."""
    if _here.graph is not None:
        raise RuntimeError(f"{CAPTURING}: another capture")
    streams.synchronize()
    with streams.on_stream(stream or streams.Stream()):
        _here.graph, graph.device = graph, streams.indexed()
        try:
            yield
        finally:
            _here.graph = None
            graph.end()


def tensors(tree: Any) -> list[torch.Tensor]:
    """All of a call's."""
    found: list[torch.Tensor] = []
    tree_map_only(torch.Tensor, found.append, tree)
    return found


def whole_of(one: torch.Tensor) -> torch.Tensor:
    """All the memory that a tensor of the host is a view of, as bytes."""
    return torch.empty(0, dtype=torch.uint8).set_(one.untyped_storage())


def written(function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> list[torch.Tensor]:
    """The arguments that a call writes to."""
    found: list[torch.Tensor] = []
    for at, argument in enumerate(function._schema.arguments if hasattr(function, "_schema") else ()):
        if argument.alias_info is not None and argument.alias_info.is_write:
            found += tensors(args[at] if at < len(args) and not argument.kwarg_only else kwargs.get(argument.name))
    return found
