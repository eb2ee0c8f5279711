"""Linear layers on x86 processors through oneDNN: the same products in float32, two to five times as quick.

torch hands float32 products to MKL, which runs a slow path on processors of other makers and reads the weights once
for each row of a small batch. oneDNN ships inside torch and does neither; the weights stay where they are.
"""

from __future__ import annotations

import platform
from collections.abc import Callable

import torch
from sam2.modeling.backbones.hieradet import MultiScaleAttention
from sam2.modeling.sam2_utils import MLP
from torch import nn
from torch.nn import functional

_LEAST_WEIGHTS = 1 << 17
_LEAST_PRODUCTS = 1 << 20
"""Below both of these torch does it: oneDNN takes some microseconds more to begin."""

_NUMBERS_IN_CACHE = 1 << 20
"""Numbers that are made at a time by an MLP (hidden) or by attention within windows (queries, keys, values), on the
CPU: 4 MB, which its cache holds."""


class QuickLinear(nn.Linear):
    """An `nn.Linear` with another way to compute the same, where that is quicker."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        weight = self.weight
        if (
            not rows.is_cpu
            or torch.compiler.is_compiling()  # inductor has ways of its own, and none for this operator
            or rows.dtype != torch.float32
            or weight.dtype != torch.float32
            or (weight.numel() < _LEAST_WEIGHTS and rows.numel() * len(weight) < _LEAST_PRODUCTS)
            or not rows.numel()
            or torch.is_grad_enabled()  # the operator has no derivative
            or torch.is_autocast_enabled("cpu")
        ):
            return functional.linear(rows, weight, self.bias)
        out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, self.bias, "none", [], "")
        return out


class FrugalMLP(MLP):
    """SAM 2's MLP, on the CPU so many rows at a time that what lies between its layers stays in the cache."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        flat = rows.reshape(-1, rows.shape[-1])
        each = max(1, _NUMBERS_IN_CACHE // self.layers[0].out_features)
        if not rows.is_cpu or torch.compiler.is_compiling() or len(flat) <= each or torch.is_grad_enabled():
            whole: torch.Tensor = super().forward(rows)
            return whole
        return _in_pieces(super().forward, flat, each).view(*rows.shape[:-1], -1)


class FrugalAttention(MultiScaleAttention):
    """SAM 2's attention within windows, on the CPU so many windows at a time that what it makes stays in the cache."""

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        count, height, width, _ = windows.shape
        each = max(1, _NUMBERS_IN_CACHE // (height * width * self.qkv.out_features))
        if not windows.is_cpu or torch.compiler.is_compiling() or count <= each or torch.is_grad_enabled():
            whole: torch.Tensor = super().forward(windows)
            return whole
        return _in_pieces(super().forward, windows, each)


def _in_pieces(forward: Callable[[torch.Tensor], torch.Tensor], rows: torch.Tensor, each: int) -> torch.Tensor:
    """What `forward` makes of `rows`, `each` of them at a time."""
    first = forward(rows[:each])
    out = first.new_empty(len(rows), *first.shape[1:])
    out[:each] = first
    for start in range(each, len(rows), each):
        out[start : start + each] = forward(rows[start : start + each])
    return out


def quicken(module: nn.Module) -> None:
    """Let the layers of a module take the quicker ways; its parameters and their names stay the same."""
    for layer in module.modules():
        if type(layer) is nn.Linear and _available():
            layer.__class__ = QuickLinear
        elif type(layer) is MLP:
            layer.__class__ = FrugalMLP
        elif type(layer) is MultiScaleAttention:
            layer.__class__ = FrugalAttention


def _available() -> bool:
    return (
        platform.machine().lower() in ("x86_64", "amd64")
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )
