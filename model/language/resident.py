"""The token step as an object that stays: room for keys and values laid out once, on CUDA a graph for each bucket.

A step of the token loop is two thousand small kernels, and on a GPU launching them takes ten times as long as they run.
A graph launches them at once, with the same shapes at the same addresses each time. So rows are counted in buckets: R
regions × T texts, both powers of two; what is left over of a bucket computes and is not looked at. When rows have ended
and the rest fits into a smaller bucket, it moves there.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional
from transformers import Qwen2ForCausalLM

from model.compute.stream import OwnStream
from model.language.buffers import MOST, ROWS, STOPS, Greedy, Shape, State, bucket
from model.language.grid import Choice, Drawn, Grid, draw
from model.language.layer import layer_step, normed, weights_of
from model.language.prefix import sums_in_float32

LOOK_EVERY = 4
"""Steps between two looks at which rows have ended: a look waits for all steps before it."""

_WARM = 2  # steps before a graph is captured: what kernels prepare once must not be part of it
_VARIANTS = 64  # of the compiled layer: as many as there may be buckets
_TEXTS = (1, 2, 4)  # of a region, in the buckets that are captured when the model loads

log = logging.getLogger(__name__)


class Resident:
    """Draws greedy answers, and steps for those that are drawn by chance; one call at a time, others wait.

    Args:
        model: on its device; its layers' weights are joined in place.
        lengths: columns that prefixes may have, rising: those of a picture's prompt, those of a clip's.
        regions: of pictures at most.
        room: columns of a row's own, question and answer, for `ROWS` rows; longer ones go with fewer rows.
        compiled: let the layer be compiled, where that works.

    Attributes:
        compiled: whether it is.
    """

    def __init__(
        self,
        model: Qwen2ForCausalLM,
        lengths: Sequence[int],
        regions: int = 64,
        room: int = 128,
        compiled: bool = True,
    ) -> None:
        config = model.config
        self._model = model
        self.device = model.device
        self._size = config.hidden_size // config.num_attention_heads
        self._kv_heads = int(config.num_key_value_heads or config.num_attention_heads)
        self._epsilon = float(config.rms_norm_eps)
        self._lengths = sorted(lengths)
        self._regions, self._room = regions, room
        self._layers = weights_of(model)
        self._summed = self.device.type == "cuda" and sums_in_float32(self.device, model.dtype)
        self._shared = max(regions * self._lengths[0], self._lengths[-1])
        self._own = ROWS * room
        each = self._kv_heads * self._size

        def laid_out(tokens: int) -> list[torch.Tensor]:
            """Room for keys and for values of each layer."""
            return [torch.zeros(2, tokens * each, device=self.device, dtype=model.dtype) for _ in self._layers]

        self._prefix, self._kept = laid_out(self._shared), laid_out(self._own)
        self._state = State(self.device, model.dtype, int(config.hidden_size), int(config.vocab_size), self._own)
        self._masks = {length: torch.zeros(length, device=self.device) for length in self._lengths}
        self._graphs: dict[tuple[Shape, bool], torch.cuda.CUDAGraph] = {}
        self._lock = threading.Lock()
        self._cuda = self.device.type == "cuda"
        self._own_stream = OwnStream(self.device)
        self._layer: Any = layer_step
        self.compiled = False
        if compiled:
            self._compile()

    def _compile(self) -> None:
        """One function for all layers and buckets."""
        self._layer, self.compiled = torch.compile(layer_step, fullgraph=True), True
        with self._own_stream.here(), torch.no_grad():
            for shape in (Shape(1, 1, self._lengths[0], self._room), Shape(1, 2, self._lengths[0], self._room)):
                self._tried(shape, False)

    def _tried(self, shape: Shape, greedy: bool) -> None:
        """Compute a bucket that may have to be compiled first; where that fails the layer runs as it is."""
        if self.compiled:
            try:
                with torch._dynamo.config.patch(recompile_limit=_VARIANTS):
                    self._compute(shape, greedy)
                return
            except Exception as error:
                self._layer, self.compiled = layer_step, False
                reason = str(error).strip().splitlines()
                log.warning("the token step is not compiled (%s): it runs as it is", reason[0] if reason else error)
        self._compute(shape, greedy)

    def capture(self) -> None:
        """Capture the graphs of the usual buckets: pictures, up to four texts of a region."""
        if not self._cuda:
            log.info("no CUDA device: the token step runs without graphs")
            return
        with self._own_stream.here(), torch.no_grad():
            for texts in _TEXTS:
                regions = 1
                while regions <= self._regions and regions * texts <= ROWS:
                    self._run(Shape(regions, texts, self._lengths[0], self._room), True)
                    regions *= 2

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
        # the laid out room is shared by all buckets
        fits = found.regions * found.length <= self._shared and found.rows * own <= self._own
        return found if fits and found.rows <= ROWS and own <= self._own else None

    def regions_at_once(self, regions: int, texts: int, length: int, room: int) -> int:
        """How many of so many regions fit into a bucket; 0 where not even one does."""
        while regions and self.shape(regions, texts, length, room) is None:
            regions //= 2
        return regions

    def draw(
        self, grid: Grid, choose: Choice, ends: Sequence[int], limits: Sequence[int], greedy: Greedy | None
    ) -> Drawn:
        """Draw at most so many tokens for each question of a grid that has read them, as `grid.draw` does.

        Args:
            grid: whose rows are taken over.
            choose: how a token is drawn.
            ends: ids that end a row.
            limits: tokens of each question's answer.
            greedy: the same as `choose`, to be done inside the step; None where chance decides.
        """
        with self._lock, self._own_stream.here(), torch.no_grad():
            rows = Rows(self, grid, max(limits))
            if greedy is None:
                return draw(rows, choose, ends, limits)
            return self._greedily(rows, greedy, ends, limits)

    def _greedily(self, rows: Rows, greedy: Greedy, ends: Sequence[int], limits: Sequence[int]) -> Drawn:
        state, count, most = self._state, len(rows.alive), max(limits)
        state.begin(rows.shape.rows, rows.alive, greedy, ends, limits)
        state.hidden[: rows.shape.rows] = rows.hidden_now
        state.choose(self._model, rows.shape.rows)
        done = 1
        while done < most:
            if done % LOOK_EVERY == 0:
                going = ~state.ended[: rows.shape.rows].view(rows.shape.regions, -1).cpu()
                if not bool(going.any()):
                    break
                self._shrink(rows, going)
            self._run(rows.shape, True)
            done += 1
        # copies also on the CPU: the next call writes there
        return Drawn(state.ids[:count, :done].clone().cpu(), state.logprobs[:count, :done].clone().cpu())

    def _shrink(self, rows: Rows, going: torch.Tensor) -> None:
        """Move to a smaller bucket if the rows that go on fit into one. `going` is (R, T), on the host."""
        old = rows.shape
        each = [line.nonzero()[:, 0].tolist() for line in going]
        lines = [number for number, texts in enumerate(each) if texts]
        new = Shape(bucket(len(lines)), bucket(max(map(len, each))), old.length, old.room)
        if new.rows >= old.rows:
            return
        if new.regions == old.regions:
            lines = list(range(old.regions))  # a prefix is much to move
        else:
            lines += lines[:1] * (new.regions - len(lines))
        # a region's texts may be any of its own; what is left over repeats a row, and has ended
        places = []
        for line in lines:
            texts = each[line] or [0]
            places += [line * old.texts + text for text in texts + texts[:1] * (new.texts - len(texts))]
        going = going.flatten()
        fresh = torch.tensor([bool(going[row]) and row not in places[:at] for at, row in enumerate(places)])
        chosen = torch.tensor(places, device=self.device)
        moved = None if new.regions == old.regions else torch.tensor(lines, device=self.device)
        self.move(old, new, chosen, moved)
        self._state.move(old, new, chosen, fresh.to(self.device))
        rows.shape = new

    def move(self, old: Shape, new: Shape, rows: torch.Tensor, regions: torch.Tensor | None) -> None:
        """Keys and values of some rows, and of some regions unless None, to the places of a smaller bucket."""
        for kept in self._kept:
            for side in kept:
                self._own_view(side, new).copy_(self._own_view(side, old)[rows])
        if regions is not None:
            for prefix in self._prefix:
                for side in prefix:
                    self._prefix_view(side, new).copy_(self._prefix_view(side, old)[regions])

    def take(self, shape: Shape, grid: Grid, places: torch.Tensor, regions: int) -> None:
        """Lay a grid's prefix and own keys and values where a bucket has them; `places` are its rows' in the bucket."""
        length, used = grid.prefix.length, grid.kept.used
        self._masks[shape.length].copy_(
            torch.where(torch.arange(shape.length, device=self.device) < length, 0.0, -torch.inf)
        )
        sides = (grid.prefix.keys, grid.prefix.values)
        for number in range(len(self._layers)):
            for side in range(2):
                view = self._prefix_view(self._prefix[number][side], shape)
                view[:regions, :, :length] = sides[side][number]
                # what masks hide is multiplied all the same: no number of another call
                view[:, :, length:] = 0
                own = self._own_view(self._kept[number][side], shape)
                own.zero_()
                own[places, :, :used] = grid.kept.written(number)[side]

    def step(self, shape: Shape) -> torch.Tensor:
        """Read the ids in the state, for rows drawn by chance: hidden (B, hidden)."""
        self._run(shape, False)
        return self._state.hidden[: shape.rows]

    def _run(self, shape: Shape, greedy: bool) -> None:
        if not self._cuda:
            self._tried(shape, greedy)
            return
        graph = self._graphs.get((shape, greedy))
        if graph is None:
            graph = self._captured(shape, greedy)
        graph.replay()

    def _captured(self, shape: Shape, greedy: bool) -> torch.cuda.CUDAGraph:
        """A bucket's graph; what the trials before write is put back."""
        before = self._state.copy()
        for _ in range(_WARM):
            self._tried(shape, greedy)
            self._state.put_back(before)
        graph = torch.cuda.CUDAGraph()
        # other threads may use the device meanwhile
        with torch.cuda.graph(graph, self._own_stream.pool, self._own_stream.stream, capture_error_mode="thread_local"):
            self._compute(shape, greedy)
        self._graphs[shape, greedy] = graph
        return graph

    def _compute(self, shape: Shape, greedy: bool) -> None:
        """One token for each row, from buffers into buffers; no number of it on the host."""
        state, count = self._state, shape.rows
        seen = state.seen_view(shape)
        seen.logical_or_(state.columns[: shape.room] == state.slot)
        own_mask = torch.where(seen, 0.0, -torch.inf)[:, None, None]
        rows = functional.embedding(state.newest[:count], self._model.model.embed_tokens.weight)
        cosine, sine = self._model.model.rotary_emb(rows[None], state.places[None, :count])
        cosine, sine = cosine[0][:, None], sine[0][:, None]
        for w, kept, prefix in zip(self._layers, self._kept, self._prefix, strict=True):
            rows = self._layer(
                rows,
                *(w.qkv, w.qkv_bias, w.out, w.gate_up, w.down, w.before, w.between),
                *(self._own_view(side, shape) for side in kept),
                *(self._prefix_view(side, shape) for side in prefix),
                *(own_mask, self._masks[shape.length], cosine, sine, state.slot),
                self._epsilon,
                self._summed,
            )
        state.hidden[:count] = normed(rows, self._model.model.norm.weight, self._epsilon)
        state.places.add_(1)
        state.slot.add_(1)
        if greedy:
            state.choose(self._model, count)

    def _own_view(self, side: torch.Tensor, shape: Shape) -> torch.Tensor:
        count = shape.rows * shape.room * self._kv_heads * self._size
        return side[:count].view(shape.rows, self._kv_heads, shape.room, self._size)

    def _prefix_view(self, side: torch.Tensor, shape: Shape) -> torch.Tensor:
        count = shape.regions * shape.length * self._kv_heads * self._size
        return side[:count].view(shape.regions, self._kv_heads, shape.length, self._size)


class Rows:
    """A grid's rows in a bucket; stands for the grid where tokens are drawn by chance (`grid.draw`).

    Attributes:
        shape: the bucket.
        alive: places of the rows in it.
        hidden_now: (B, hidden) behind the newest token.
    """

    def __init__(self, resident: Resident, grid: Grid, most: int) -> None:
        regions, count = grid.prefix.regions, len(grid.hidden)
        texts = count // regions
        shape = resident.shape(regions, texts, grid.prefix.length, grid.kept.used + most)
        assert shape is not None
        self._resident = resident
        self._state = state = resident._state
        self.shape = shape
        self.prefix = grid.prefix
        numbers = torch.arange(count, device=resident.device)
        self.alive = numbers // texts * shape.texts + numbers % texts
        resident.take(shape, grid, self.alive, regions)
        used = grid.kept.used
        seen = state.seen_view(shape)
        seen.zero_()
        seen[:, 0] = True  # what is left over sees something, or softmax would have nothing to weigh
        seen[self.alive, :used] = grid.seen[:, :used]
        state.places[: shape.rows] = 0
        state.places[self.alive] = grid.places
        state.slot.fill_(used)
        self.hidden_now = torch.zeros(shape.rows, grid.hidden.shape[1], dtype=grid.hidden.dtype, device=resident.device)
        self.hidden_now[self.alive] = grid.hidden

    @property
    def hidden(self) -> torch.Tensor:
        """Behind the newest token of each row that is alive."""
        return self.hidden_now[self.alive]

    def logits(self) -> torch.Tensor:
        """(rows alive, V) float32."""
        logits: torch.Tensor = functional.linear(self.hidden, self._resident._model.lm_head.weight).float()
        return logits

    def step(self, ids: torch.Tensor) -> None:
        """Read the next token of each row that is alive."""
        self._state.newest[self.alive] = ids
        self.hidden_now = self._resident.step(self.shape).clone()

    def keep(self, regions: torch.Tensor | None, rows: torch.Tensor) -> None:
        """Only some rows go on; they stay where they are."""
        self.alive = self.alive[rows]
