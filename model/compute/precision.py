"""Float32 that is float32: no TF32, whatever torch or the program around has as its default."""

from __future__ import annotations

import threading
from contextlib import ContextDecorator
from functools import cache

import torch


class _FullFloat32(ContextDecorator):
    """While a block or a decorated function runs, in any thread, CUDA computes float32 products in float32.

    torch lets convolutions run in TF32 by default: ten bits of mantissa, enough to choose another mask token. The
    switches are the process's; the last one to leave puts them back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before = (False, False)

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
                _allow_tf32(False, False)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                _allow_tf32(*self._before)


def _allow_tf32(convolutions: bool, products: bool) -> None:
    torch.backends.cudnn.allow_tf32 = convolutions
    torch.backends.cuda.matmul.allow_tf32 = products


full_float32 = _FullFloat32()


def products(left: torch.Tensor, right: torch.Tensor, summed: bool) -> torch.Tensor:
    """(N, H, m, k) · (N, H, k, n) in float32: what a lower dtype holds is multiplied exactly and summed in float32.

    `summed`: the device does that with a lower dtype by itself; see `sums_in_float32`.
    """
    if left.dtype == torch.float32:
        return left @ right
    if summed:
        out: torch.Tensor = torch.bmm(left.flatten(0, 1), right.flatten(0, 1), out_dtype=torch.float32)
        return out.view(left.shape[0], left.shape[1], left.shape[2], right.shape[3])
    return left.float() @ right.float()


@cache
def sums_in_float32(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the device gives products of a lower dtype in float32 without a copy of the factors in it."""
    if device.type != "cuda":
        return False
    one = torch.ones(1, 8, 8, dtype=dtype, device=device)
    try:
        return bool(torch.bmm(one, one, out_dtype=torch.float32).dtype == torch.float32)
    except (RuntimeError, NotImplementedError, TypeError):
        return False
