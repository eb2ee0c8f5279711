"""SAM 2's image encoder in few shapes: each is compiled, and on CUDA captured as a graph, when the model loads.

A shape that comes for the first time inside a job would be compiled there, for a minute. So pictures go through in
batches of one and of eight.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from sam2.modeling.sam2_base import SAM2Base
from torch.nn import functional

from model.compute import compiler
from model.compute.precision import full_float32
from model.compute.stream import OwnStream
from model.errors import in_a_line
from model.values.image import normalised

TOGETHER = 8
"""Pictures that are encoded together on a GPU, at most; on a CPU one keeps it busy."""

_PADDED_FROM = 7
"""Left over pictures, from which on a padded batch of eight is quicker than one after the other (`benchmarks.gpu`)."""

_WARM = 2  # runs before a graph is captured: what kernels prepare once must not be part of it

log = logging.getLogger(__name__)

Levels = tuple[torch.Tensor, ...]
"""(B, 32, 4n, 4n), (B, 64, 2n, 2n) and (B, 256, n, n)."""


@dataclass(frozen=True, eq=False)
class _Captured:
    """A graph, what it reads and what it writes."""

    graph: torch.cuda.CUDAGraph
    pixels: torch.Tensor
    levels: Levels


class Encoder:
    """Encodes pictures with one loaded `SAM2Base`.

    In bfloat16 the encoder's own weights are cast, once. In float16 they stay and it runs under autocast, since what
    its layers add up may pass float16's largest number.

    Attributes:
        dtype: of what it gives.
        sizes: batches that it runs in, once it is settled; before that, whatever comes.
    """

    def __init__(self, sam: SAM2Base, dtype: torch.dtype) -> None:
        self._sam = sam
        self.dtype = dtype
        self.sizes: tuple[int, ...] = ()
        if dtype == torch.bfloat16:
            for module in (sam.image_encoder, *self._projections()):
                module.to(dtype)
        self._run: Any = self._levels
        self._graphs: dict[int, _Captured] = {}
        self._lock = threading.Lock()
        self._own = OwnStream(self._device)

    @property
    def _device(self) -> torch.device:
        return next(self._sam.parameters()).device

    def _projections(self) -> list[torch.nn.Module]:
        """Of the two finer levels, which SAM 2 keeps with the decoder."""
        decoder = self._sam.sam_mask_decoder
        return [decoder.conv_s0, decoder.conv_s1] if self._sam.use_high_res_features_in_sam else []

    @torch.no_grad()
    @full_float32
    def __call__(self, pixels: torch.Tensor) -> Levels:
        """The levels of pictures (B, S, S, 3) uint8 on the device, in `dtype`; they share no memory with later ones."""
        if not self.sizes:
            return self._compute(pixels)
        parts = []
        with self._lock:
            for size, part in _batches(pixels, self.sizes):
                parts.append([level[: len(part)] for level in self._at(size, part)])
        if len(parts) == 1:
            return tuple(parts[0])
        return tuple(torch.cat(level) for level in zip(*parts, strict=True))

    @torch.no_grad()
    @full_float32
    def settle(self, sizes: Sequence[int], compiled: bool, backend: str = "inductor") -> bool:
        """From now on run in batches of these sizes only, all of them tried here; on CUDA as graphs.

        Args:
            sizes: rising, the first is 1.
            compiled: let them be compiled.
            backend: of torch.compile.

        Returns:
            Whether they are compiled: where that fails the encoder runs as it is, and the log says so.
        """
        shapes = [(size, self._sam.image_size, self._sam.image_size, 3) for size in sizes]
        if compiled:
            # as it is, first: sam2 remembers positions, and what is compiled before that is not what runs after it
            self._compute(torch.zeros(shapes[0], dtype=torch.uint8, device=self._device))
            compiler.begin("SAM 2's encoder")
            self._run = torch.compile(self._levels, dynamic=False, backend=backend)
            try:
                for shape in shapes:
                    self._compute(torch.zeros(shape, dtype=torch.uint8, device=self._device))
            except Exception as error:
                self._run, compiled = self._levels, False
                compiler.warn("SAM 2's encoder is", error)
        self.sizes = tuple(sizes)
        if self._device.type == "cuda":
            try:
                for shape in shapes:
                    self._graphs[shape[0]] = self._captured(shape)
            except Exception as error:
                self._graphs.clear()
                log.warning("SAM 2's encoder is not captured (%s): it runs without graphs", in_a_line(error))
        return compiled

    def _captured(self, shape: tuple[int, ...]) -> _Captured:
        pixels = torch.zeros(shape, dtype=torch.uint8, device=self._device)
        with self._own.here():
            for _ in range(_WARM):
                self._compute(pixels)
        torch.cuda.synchronize(self._device)
        graph, levels = self._own.capture(lambda: self._compute(pixels))
        return _Captured(graph, pixels, levels)

    def _at(self, size: int, part: torch.Tensor) -> Levels:
        captured = self._graphs.get(size)
        if captured is None or captured.pixels.shape[1:] != part.shape[1:]:
            padding = (0, 0, 0, 0, 0, 0, 0, size - len(part))
            return self._compute(functional.pad(part, padding) if len(part) < size else part)
        with self._own.here() as outside:
            captured.pixels[: len(part)].copy_(part)
            captured.graph.replay()
            # copies: the next replay writes to the same place
            levels = tuple(level[: len(part)].clone() for level in captured.levels)
            for level in levels:
                level.record_stream(outside)
        return levels

    def _compute(self, pixels: torch.Tensor) -> Levels:
        # outside of what is compiled, where divisions are not exact
        found: Levels = self._run(normalised(pixels))
        return found

    def _levels(self, inputs: torch.Tensor) -> Levels:
        lower = self.dtype == torch.float16
        with torch.autocast(inputs.device.type, self.dtype) if lower else nullcontext():
            kind = self.dtype if self.dtype == torch.bfloat16 else inputs.dtype
            levels = list(self._sam.image_encoder(inputs.to(kind))["backbone_fpn"])
            for at, project in enumerate(self._projections()):
                levels[at] = project(levels[at].to(kind))
        return tuple(level.to(self.dtype) for level in levels[-3:])


def _batches(pixels: torch.Tensor, sizes: Sequence[int]) -> list[tuple[int, torch.Tensor]]:
    """Consecutive pictures with the size of the batch that they go in, which may be larger."""
    parts, start, most = [], 0, sizes[-1]
    while start < len(pixels):
        left = len(pixels) - start
        size = most if left >= min(most, _PADDED_FROM) else 1
        parts.append((size, pixels[start : start + size]))
        start += size
    return parts
