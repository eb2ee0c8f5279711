"""One region's prompt, on CUDA as a graph: reading it is a thousand kernels, launching them takes longer than they run.

Several regions at once keep the device busy as they are.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass

import torch
from transformers import Qwen2ForCausalLM

from model.compute.precision import full_float32
from model.compute.stream import OwnStream
from model.errors import in_a_line
from model.language.grid import read_prefix
from model.language.prefix import Prefix

_WARM = 2  # runs before the graph is captured: what kernels prepare once must not be part of it

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Captured:
    """A graph, where it runs, what it reads and what it writes."""

    graph: torch.cuda.CUDAGraph
    own: OwnStream
    vectors: torch.Tensor
    prefix: Prefix


class Opening:
    """Reads the common beginnings of prompts; several threads may ask.

    Args:
        model: on its device; its weights may change in place, and must not move after `capture`.
    """

    def __init__(self, model: Qwen2ForCausalLM) -> None:
        self._model = model
        self._lock = threading.Lock()
        self._captured: _Captured | None = None

    @torch.no_grad()
    @full_float32
    def capture(self, length: int) -> bool:
        """From now on read single prompts of so many vectors with a graph; only on CUDA.

        Returns:
            Whether there is one: where capturing fails they are read as they are, and the log says so.
        """
        model, device = self._model, self._model.device
        vectors = torch.zeros(1, length, model.config.hidden_size, device=device, dtype=model.dtype)
        own = OwnStream(device)
        try:
            with own.here():
                for _ in range(_WARM):
                    read_prefix(model, vectors)
            torch.cuda.synchronize(device)
            graph, prefix = own.capture(lambda: read_prefix(model, vectors))
        except Exception as error:
            log.warning("reading a prompt is not captured (%s): it runs without a graph", in_a_line(error))
            return False
        self._captured = _Captured(graph, own, vectors, prefix)
        return True

    def read(self, prompts: torch.Tensor) -> Prefix:
        """As `read_prefix`, of prompts (R, L, hidden); it shares no memory with later ones."""
        captured = self._captured
        if captured is None or prompts.shape != captured.vectors.shape:
            return read_prefix(self._model, prompts)
        with self._lock, captured.own.here() as outside:
            captured.vectors.copy_(prompts)
            captured.graph.replay()
            # copies: the next replay writes to the same place
            sides = (captured.prefix.keys, captured.prefix.values)
            found = Prefix(*(tuple(one.clone() for one in side) for side in sides))
            for one in (*found.keys, *found.values) if outside is not None else ():
                one.record_stream(outside)
        return found
