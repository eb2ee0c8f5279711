"""What arithmetic allows: operations and bytes counted, and what the machine at hand can do of each in a second."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula

from model.compute.linear import quicken

_SIDE = 2048
_MEMORY = 1 << 29


@register_flop_formula(torch.ops.mkldnn._linear_pointwise)
def _linear_flops(rows: Sequence[int], weight: Sequence[int], *_: Any, **__: Any) -> int:
    count = 2 * weight[0]
    for size in rows:
        count *= size
    return count


@register_flop_formula(torch.ops.aten._scaled_dot_product_flash_attention_for_cpu)
def _attention_flops(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any) -> int:
    rows, heads, length, size = query
    return 2 * rows * heads * length * key[2] * (size + value[3])


def operations(work: Callable[[], object]) -> float:
    """Floating point operations of one run."""
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


@dataclass(frozen=True)
class Work:
    """What a run cannot do without.

    Attributes:
        operations: floating point operations, all of them.
        steps: tokens drawn one after the other.
        rows: texts that are drawn together in each step.
        batches: how many times that is done.
        weights: of the language model, each used once a row and step.
        weight_bytes: of them.
    """

    operations: float
    steps: int
    rows: float
    batches: int
    weights: float
    weight_bytes: float

    def floor_s(self, machine: Machine) -> float:
        """Seconds at the machine's best: each step reads the weights once, the rest is arithmetic."""
        loop = 2 * self.weights * self.rows * self.steps * self.batches
        step = max(self.weight_bytes / machine.bytes_per_s, 2 * self.weights * self.rows / machine.operations_per_s)
        return max(0.0, self.operations - loop) / machine.operations_per_s + self.batches * self.steps * step


@dataclass(frozen=True)
class Machine:
    """The best that was seen of a large matrix product and of reading memory."""

    operations_per_s: float
    bytes_per_s: float

    @classmethod
    @torch.no_grad()
    def measure(
        cls, device: torch.device, dtype: torch.dtype, clock: Callable[[], float] = time.perf_counter
    ) -> Machine:
        """About two seconds."""
        layer = torch.nn.Linear(_SIDE, _SIDE, bias=False, device=device, dtype=dtype)
        quicken(layer)
        rows = torch.randn(_SIDE, _SIDE, device=device, dtype=dtype)
        product_s = _best(lambda: layer(rows), device, clock)
        memory = torch.ones(_MEMORY // 4, device=device)
        read_s = _best(memory.sum, device, clock)
        return cls(2.0 * _SIDE**3 / product_s, _MEMORY / read_s)


def _best(work: Callable[[], object], device: torch.device, clock: Callable[[], float], times: int = 8) -> float:
    work()
    taken = []
    for _ in range(times):
        begin = clock()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(clock() - begin)
    return min(taken)
