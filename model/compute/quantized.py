"""The language model's linear layers in eight bits, on processors: a quarter of what is read.

Each row of weights and each row of numbers has a scale of its own, so that a row's answer does not depend on what else
is in its batch. Products are sums of whole numbers, exact; what is lost is the rounding before, about one part in a
hundred of a layer's output. The operators are those of torch itself (FBGEMM, in its builds for x86).
"""

from __future__ import annotations

from functools import cache

import torch
from torch import nn

from model.compute.device import EIGHT_BITS

_LEAST = 1e-12
"""Of a row's largest number, so that a row of zeros can be divided by it."""


class EightBitLinear(nn.Module):
    """The products of an `nn.Linear`, (…, in) to (…, out) float32, from weights kept in eight bits; not for training.

    Args:
        layer: on the CPU, float32; it is left as it was.
        levels: whole numbers on each side of zero for a row of input, at most 127; None takes what `levels` finds.
    """

    def __init__(self, layer: nn.Linear, levels: int | None = None) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        weight = layer.weight.detach()
        # the largest number of each row, without a copy of all of them
        scales = (torch.maximum(weight.amax(1), -weight.amin(1)).clamp(min=_LEAST) / 127).double()
        zeros = torch.zeros(len(weight), dtype=torch.int64)
        self._packed = _pack(torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8))
        self._levels = most_levels() if levels is None else levels
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach(), requires_grad=False)

    @property
    def weight_bytes(self) -> int:
        """What the weights take, their scales left out."""
        return self.in_features * self.out_features

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        top = rows.abs().amax(-1, keepdim=True).clamp_(min=_LEAST)
        out: torch.Tensor = _multiply(rows / top, 1 / self._levels, self._levels + 1, self._packed).mul_(top)
        return out if self.bias is None else out.add_(self.bias)


def quantize(module: nn.Module) -> None:
    """Replace each linear layer of a module by one in eight bits; they are made float32 one after the other."""
    # by name: a list of the layers themselves would keep each of them, in float32, until the last is done
    parents = [parent for parent in module.modules() if not isinstance(parent, nn.Linear)]
    for parent in parents:
        for name in [name for name, layer in parent.named_children() if isinstance(layer, nn.Linear)]:
            setattr(parent, name, EightBitLinear(getattr(parent, name).float()))


def _multiply(rows: torch.Tensor, scale: float, zero: int, packed: object) -> torch.Tensor:
    out: torch.Tensor = getattr(torch.ops.quantized, EIGHT_BITS)(rows, scale, zero, packed)
    return out


def _pack(weight: torch.Tensor) -> object:
    """As FBGEMM wants it, whatever engine the process has chosen for others."""
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = "fbgemm"
    try:
        packed: object = torch.ops.quantized.linear_prepack(weight, None)
    finally:
        torch.backends.quantized.engine = before
    return packed


@cache
def most_levels() -> int:
    """How many whole numbers on each side of zero this processor multiplies right: 127, or 63 without VNNI.

    Without these instructions products are summed by pairs in sixteen bits, which two large ones overflow.
    """
    ones = nn.Linear(64, 16, bias=False)
    nn.init.ones_(ones.weight)
    with torch.no_grad():
        found = EightBitLinear(ones, 127)(torch.ones(1, 64))
    return 127 if bool((found - 64).abs().max() < 0.5) else 63
