"""Float32 that is float32: no TF32, whatever torch or the program around has as its default."""

from __future__ import annotations

import threading
from contextlib import ContextDecorator

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
