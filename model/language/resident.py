"""The token step as an object that stays: room for keys and values laid out once, on CUDA a graph for each bucket.

A step of the token loop is two thousand small kernels, and on a GPU launching them takes ten times as long as they run.
A graph launches them at once, with the same shapes at the same addresses each time. So rows are counted in buckets: R
regions × T texts, both powers of two; what is left over of a bucket computes and is not looked at. Which rows are where
is the business of `model.language.decoder`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import torch
from torch.nn import functional
from transformers import Qwen2ForCausalLM

from model.compute import compiler
from model.compute.precision import sums_in_float32
from model.compute.stream import OwnStream
from model.errors import in_a_line
from model.language.buffers import MOST, ROWS, STOPS, Shape, State, bucket
from model.language.grid import Grid
from model.language.layer import layer_step, normed, weights_of

ROOM = 256
"""Columns of a row's own, question and answer: for the usual questions, a class, and a brief caption."""

_WARM = 2  # steps before a graph is captured: what kernels prepare once must not be part of it
_VARIANTS = 64  # of the compiled layer: as many as there may be buckets
_TEXTS = (1, 2, 4)  # of a region, in the buckets that are captured when the model loads

log = logging.getLogger(__name__)


class Resident:
    """Computes token steps for rows in buffers that stay; not safe for several threads at once.

    Args:
        model: on its device; its layers' weights are joined in place.
        lengths: columns that prefixes may have, rising: those of a picture's prompt, those of a clip's.
        regions: of pictures at most.
        room: columns of a row's own for `ROWS` rows; longer ones go with fewer rows.
        compiled: let the layer be compiled, where that works.
        backend: of torch.compile.

    Attributes:
        compiled: whether it is.
        state: what the rows are at.
        own: the stream that everything here runs on.
    """

    def __init__(
        self,
        model: Qwen2ForCausalLM,
        lengths: Sequence[int],
        regions: int = 64,
        room: int = ROOM,
        compiled: bool = True,
        backend: str = "inductor",
    ) -> None:
        config = model.config
        self.model = model
        self.device = model.device
        self._size = config.hidden_size // config.num_attention_heads
        self._kv_heads = int(config.num_key_value_heads or config.num_attention_heads)
        self._epsilon = float(config.rms_norm_eps)
        self._lengths = sorted(lengths)
        self._regions, self._room = regions, room
        self.layers = weights_of(model)
        self._summed = sums_in_float32(self.device, model.dtype)
        self._shared = max(regions * self._lengths[0], self._lengths[-1])
        self._own_tokens = ROWS * room
        each = self._kv_heads * self._size

        def laid_out(tokens: int) -> list[torch.Tensor]:
            """Room for keys and for values of each layer."""
            return [torch.zeros(2, tokens * each, device=self.device, dtype=model.dtype) for _ in self.layers]

        self.prefix, self.kept = laid_out(self._shared), laid_out(self._own_tokens)
        self.state = State(self.device, model.dtype, int(config.hidden_size), int(config.vocab_size), self._own_tokens)
        self._masks = {length: torch.zeros(length, device=self.device) for length in self._lengths}
        self._graphs: dict[tuple[Shape, bool], torch.cuda.CUDAGraph | None] = {}
        self._cuda = self.device.type == "cuda"
        self.own = OwnStream(self.device)
        self._layer: Any = layer_step
        self.compiled = compiled
        if compiled:
            # one function for all layers and buckets
            self._layer = torch.compile(layer_step, fullgraph=True, backend=backend)

    def warm(self) -> None:
        """Try the usual buckets, pictures with up to four texts of a region: what is to be compiled or captured is.

        Of longer prefixes and answers only the smallest: what is compiled for these serves the larger ones.
        """
        if not self._cuda:
            log.info("no CUDA device: the token step runs without graphs")
        if not (self._cuda or self.compiled):
            return
        if self.compiled:
            compiler.begin("the token step")
        with self.own.here(), torch.no_grad():
            for texts in _TEXTS:
                regions = 1
                while regions <= self._regions and regions * texts <= ROWS:
                    for greedy in (True, False) if regions * texts == 1 else (True,):
                        self.run(Shape(regions, texts, self._lengths[0], self._room), greedy)
                    regions *= 2
            for shape in self._longer():
                self.run(shape, True)
            self.state.clear(0, ROWS)

    def _longer(self) -> Iterator[Shape]:
        """Where the compiled layer is not that of the usual buckets: other lengths, more room, one row or more."""
        # first where both differ: what is compiled with both left open serves where one does
        for length, room in product(reversed(self._lengths), (2 * self._room, self._room, 4 * self._room)):
            for texts, regions in product(_TEXTS[:2], (1, 2)):
                shape = Shape(regions, texts, length, room)
                if (length, room) != (self._lengths[0], self._room) and regions <= self._regions and self.fits(shape):
                    yield shape

    def takes(self, ends: Sequence[int], most: int) -> bool:
        """Whether answers with these end tokens and so many tokens at most can be drawn here."""
        return len(ends) <= STOPS and most <= MOST

    def shape(self, regions: int, texts: int, length: int, room: int) -> Shape | None:
        """The bucket for so many; None where there is none."""
        fitting = [size for size in self._lengths if size >= length]
        if not fitting or texts > ROWS:
            return None
        own = self._room
        while own < room:
            own *= 2
        found = Shape(bucket(regions), bucket(texts), fitting[0], own)
        return found if self.fits(found) else None

    def fits(self, shape: Shape) -> bool:
        """Whether a bucket has room; the laid out room is shared by all buckets."""
        shared, own = shape.regions * shape.length <= self._shared, shape.rows * shape.room <= self._own_tokens
        return shared and own and shape.rows <= ROWS

    def regions_at_once(self, regions: int, texts: int, length: int, room: int) -> int:
        """How many of so many regions fit into a bucket; 0 where not even one does."""
        while regions and self.shape(regions, texts, length, room) is None:
            regions //= 2
        return regions

    def take(self, shape: Shape, grid: Grid, rows: torch.Tensor, regions: torch.Tensor) -> None:
        """Lay a grid's keys and values, and what its rows are at, where a bucket has them.

        `rows` and `regions` are the places of the grid's in the bucket, on the device.
        """
        length, used, state = grid.prefix.length, grid.kept.used, self.state
        self._masks[shape.length].copy_(
            torch.where(torch.arange(shape.length, device=self.device) < length, 0.0, -torch.inf)
        )
        sides = (grid.prefix.keys, grid.prefix.values)
        for number in range(len(self.layers)):
            for side in range(2):
                # what masks hide is multiplied all the same: no number of another call
                view = self._prefix_view(self.prefix[number][side], shape)
                view[regions, :, :length] = sides[side][number]
                view[regions, :, length:] = 0
                own = self._own_view(self.kept[number][side], shape)
                own[rows, :, :used] = grid.kept.written(number)[side]
                own[rows, :, used:] = 0
        state.hidden[rows] = grid.hidden
        state.places[rows] = grid.places

    def move(self, old: Shape, new: Shape, rows: torch.Tensor, regions: torch.Tensor | None) -> None:
        """Keys and values of rows, and of regions unless None, to the places of another bucket.

        `rows` says for each place of the new bucket which row of the old one comes there; `regions` likewise.
        """
        room = min(old.room, new.room)
        for kept in self.kept:
            for side in kept:
                # indexing copies: the places overlap
                moved = self._own_view(side, old)[rows][:, :, :room]
                there = self._own_view(side, new)
                there[:, :, :room].copy_(moved)
                there[:, :, room:] = 0
        if regions is not None:
            for prefix in self.prefix:
                for side in prefix:
                    self._prefix_view(side, new).copy_(self._prefix_view(side, old)[regions])

    def run(self, shape: Shape, greedy: bool) -> None:
        """Read the newest token of each row of a bucket; with `greedy` choose the next ones too."""
        if not self._cuda:
            self._tried(shape, greedy)
            return
        if (shape, greedy) not in self._graphs:
            self._graphs[shape, greedy] = self._captured(shape, greedy)
        graph = self._graphs[shape, greedy]
        if graph is None:
            self._tried(shape, greedy)
        else:
            graph.replay()

    def _tried(self, shape: Shape, greedy: bool) -> None:
        """Compute a bucket that may have to be compiled first; where that fails the layer runs as it is."""
        if self.compiled:
            try:
                with torch._dynamo.config.patch(recompile_limit=_VARIANTS):
                    self._compute(shape, greedy)
                return
            except Exception as error:
                self._layer, self.compiled = layer_step, False
                compiler.warn("the token step is", error)
        self._compute(shape, greedy)

    def _captured(self, shape: Shape, greedy: bool) -> torch.cuda.CUDAGraph | None:
        """A bucket's graph, None where there is none; what the trials before write is put back."""
        before = self.state.copy()
        for _ in range(_WARM):
            self._tried(shape, greedy)
            self.state.put_back(before)
        try:
            return self.own.capture(lambda: self._compute(shape, greedy))[0]
        except Exception as error:
            if None not in self._graphs.values():
                log.warning("the token step is not captured (%s): it runs without graphs", in_a_line(error))
            return None

    def _compute(self, shape: Shape, greedy: bool) -> None:
        """One token for each row, from buffers into buffers; no number of it on the host."""
        state, count = self.state, shape.rows
        own_mask, slot = state.own_mask(shape), state.slot[:count]
        rows = functional.embedding(state.newest[:count], self.model.model.embed_tokens.weight)
        cosine, sine = self.model.model.rotary_emb(rows[None], state.places[None, :count])
        cosine, sine = cosine[0][:, None], sine[0][:, None]
        for w, kept, prefix in zip(self.layers, self.kept, self.prefix, strict=True):
            rows = self._layer(
                rows,
                *(w.qkv, w.qkv_bias, w.out, w.gate_up, w.down, w.before, w.between),
                *(self._own_view(side, shape) for side in kept),
                *(self._prefix_view(side, shape) for side in prefix),
                *(own_mask, self._masks[shape.length], cosine, sine, slot),
                self._epsilon,
                self._summed,
            )
        state.hidden[:count] = normed(rows, self.model.model.norm.weight, self._epsilon)
        state.advance(shape)
        if greedy:
            state.choose(self.model, state.order[:count])

    def _own_view(self, side: torch.Tensor, shape: Shape) -> torch.Tensor:
        count = shape.rows * shape.room * self._kv_heads * self._size
        return side[:count].view(shape.rows, self._kv_heads, shape.room, self._size)

    def _prefix_view(self, side: torch.Tensor, shape: Shape) -> torch.Tensor:
        count = shape.regions * shape.length * self._kv_heads * self._size
        return side[:count].view(shape.regions, self._kv_heads, shape.length, self._size)
