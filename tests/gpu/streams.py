"""Streams of an emulated GPU: all is done at once, but who reads or writes without having waited for it is told so.

Each stream counts what it was asked, and knows up to where it has waited for others (vector clocks, as in torch's own
CUDA sanitizer, which needs a GPU).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import torch

Known = dict["Stream", int]
"""Up to where streams have been waited for."""


class RaceError(RuntimeError):
    """Memory was used by a stream before another was done with it."""


class Stream:
    """Stands for `torch.cuda.Stream`."""

    def __init__(self, device: Any = None, priority: int = 0) -> None:
        self.device = indexed(device)
        self.time = 0
        self.known: Known = {}
        _streams.add(self)

    def so_far(self) -> Known:
        """What whoever waits for this stream knows."""
        return self.known | {self: self.time}

    def wait_stream(self, other: Stream) -> None:
        _learn(self.known, other.so_far())

    def wait_event(self, event: Event) -> None:
        _learn(self.known, event.known)

    def record_event(self) -> Event:
        event = Event()
        event.record(self)
        return event

    def synchronize(self) -> None:
        """The host waits: whatever it asks afterwards comes after."""
        _learn(_host, self.so_far())


class Event:
    """Stands for `torch.cuda.Event`."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.known: Known = {}
        self._at_s = 0.0

    def record(self, stream: Stream | None = None) -> None:
        self.known, self._at_s = (stream or current()).so_far(), time.perf_counter()

    def wait(self, stream: Stream | None = None) -> None:
        (stream or current()).wait_event(self)

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        _learn(_host, self.known)

    def elapsed_time(self, other: Event) -> float:
        return 1000 * (other._at_s - self._at_s)


class _Here(threading.local):
    """Of a thread."""

    index = 0
    streams: dict[int, Stream] | None = None


_here = _Here()
_defaults: dict[int, Stream] = {}
_streams: WeakSet[Stream] = WeakSet()
_host: Known = {}


def _learn(mine: Known, others: Known) -> None:
    """What is known somewhere else is known here too."""
    for stream, moment in others.items():
        mine[stream] = max(moment, mine.get(stream, 0))


def indexed(device: Any = None) -> torch.device:
    """A device with its number; the thread's own where none is given."""
    if isinstance(device, int):
        return torch.device("cuda", device)
    index = None if device is None else torch.device(device).index
    return torch.device("cuda", _here.index if index is None else index)


def default(device: Any = None) -> Stream:
    """The stream that all threads share."""
    where = indexed(device)
    return _defaults.setdefault(where.index, Stream(where))


def current(device: Any = None) -> Stream:
    """The stream that this thread asks."""
    where = indexed(device)
    return (_here.streams or {}).get(where.index) or default(where)


@contextmanager
def on_device(device: Any) -> Iterator[None]:
    """Stands for `torch.cuda.device`."""
    before, _here.index = _here.index, indexed(device).index
    try:
        yield
    finally:
        _here.index = before


@contextmanager
def on_stream(stream: Stream | None) -> Iterator[None]:
    """Stands for `torch.cuda.stream`."""
    if stream is None:
        yield
        return
    before = _here.streams
    _here.streams = {**(before or {}), stream.device.index: stream}
    try:
        with on_device(stream.device):
            yield
    finally:
        _here.streams = before


def synchronize(device: Any = None) -> None:
    """The host waits for all streams."""
    for stream in [*_streams]:
        stream.synchronize()


def meet(one: torch.device, other: torch.device) -> None:
    """A copy from device to device: torch has both current streams wait for each other."""
    mine, its = current(one), current(other)
    mine.wait_stream(its)
    its.wait_stream(mine)


class _Use:
    """Of a piece of memory: who wrote it last, and who has read it since."""

    def __init__(self) -> None:
        self.written: tuple[Stream, int] | None = None
        self.read: dict[Stream, int] = {}


_uses: dict[int, _Use] = {}


def used(device: torch.device, read: Iterable[int], written: Iterable[int], fresh: Iterable[int], what: str) -> None:
    """The current stream does something with memory, by its addresses; `fresh` is new and nobody else's.

    Raises:
        RaceError: another stream may not be done with it.
    """
    stream = current(device)
    _learn(stream.known, _host)
    stream.time += 1
    written = set(written)
    for address in fresh:
        _uses[address] = _Use()
        _uses[address].written = (stream, stream.time)
    for address in {*read, *written} - {0}:
        use = _uses.setdefault(address, _Use())
        others = [use.written] if use.written else []
        others += list(use.read.items()) if address in written else []
        for other, moment in others:
            if other is not stream and stream.known.get(other, 0) < moment:
                raise RaceError(
                    f"{what} on {stream.device}: uses memory that another stream (of {other.device}) may still be at "
                    "work on; wait for it"
                )
        if address in written:
            use.written, use.read = (stream, stream.time), {}
        else:
            use.read[stream] = stream.time
