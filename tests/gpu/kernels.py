"""What torch.compile makes for a GPU, on a machine without one.

Functions are compiled for fake tensors. Triton's kernels are built for a kind of card, as far as a driver is not asked;
with TRITON_INTERPRET=1, set before Triton is imported, they run on the CPU instead, one block after another. Matrix
products are torch's own: here the CPU's. In a process of its own, which has no other GPU afterwards.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch._inductor.config as inductor
import triton  # type: ignore[import-untyped]
from torch._dynamo.device_interface import CudaInterface
from torch._inductor import codecache
from torch._inductor.compile_fx import compile_fx
from torch._inductor.runtime import triton_helpers, triton_heuristics
from torch._inductor.select_algorithm import extern_kernels
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from triton.backends.compiler import GPUTarget  # type: ignore[import-untyped]

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

_card = (9, 0)


def _properties(*_: object) -> Any:
    return SimpleNamespace(
        name="none",
        major=_card[0],
        minor=_card[1],
        total_memory=80 << 30,
        warp_size=32,
        multi_processor_count=108,
        max_threads_per_block=1024,
        max_threads_per_multi_processor=1024 if _card == (7, 5) else 1536 if _card == (8, 9) else 2048,
        regs_per_multiprocessor=65536,
        shared_memory_per_block=48 << 10,
        shared_memory_per_block_optin=64 << 10 if _card == (7, 5) else 99 << 10,
    )


class _Driver:
    """Triton's, of a card that is not there."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 10 * _card[0] + _card[1], 32)

    def get_current_device(self) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cuda", 0)


class Compiled:
    """A function, compiled for the card; called with tensors of the CPU.

    Attributes:
        variants: how often it was compiled.
        built: kernels that Triton built for the card.
        ran: kernels that were run by the latest call, those of matrix products not counted.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.variants = 0
        self.built = 0
        self.ran = 0
        self._real: dict[int, torch.Tensor] = {}
        self._function = torch.compile(function, fullgraph=True, backend=self._compile)

    def __call__(self, *args: Any) -> Any:
        global _now
        _now, self.ran = self, 0
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            fake = [_on_card(one) if isinstance(one, torch.Tensor) else one for one in args]
            self._real = {
                id(there): one for there, one in zip(fake, args, strict=True) if isinstance(one, torch.Tensor)
            }
            return self._function(*fake)

    def _compile(self, graph: torch.fx.GraphModule, given: Sequence[Any]) -> Callable[..., Any]:
        self.variants += 1
        compiled: Any = compile_fx(graph, given)

        def run(*args: Any) -> Any:
            if not INTERPRETED:
                return [next(one for one in args if isinstance(one, torch.Tensor))]
            with unset_fake_temporarily():
                return compiled(*(self._real.get(id(one), one) for one in args))

        return run


_now: Compiled


def _on_card(one: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(one.shape, one.stride(), dtype=one.dtype, device="cuda")


@contextmanager
def card(major: int, minor: int, cache: Path) -> Iterator[None]:
    """What is compiled here is for a card of this compute capability, and nothing of it is found again."""
    global _card
    before, _card = _card, (major, minor)
    os.environ.update(TORCHINDUCTOR_CACHE_DIR=str(cache), TRITON_CACHE_DIR=str(cache / "triton"))
    torch._dynamo.reset()
    try:
        yield
    finally:
        _card = before


def _run(kernel: Any, *args: Any, **_: Any) -> None:
    """A kernel's launch, with the first of its configs, as inductor's own launcher computes its grid."""
    _now.ran += 1
    config = kernel.configs[0]
    given = dict(zip([name for name in kernel.fn.arg_names if name not in config.kwargs], args, strict=False))
    given |= config.kwargs
    grid = triton_heuristics.GridExpr.from_meta(kernel.inductor_meta, config)
    names = dict(given)
    for line in grid.prefix:
        exec(line, {}, names)
    sides = (eval(str(side), {}, names) for side in (grid.x_grid, grid.y_grid, grid.z_grid))
    kernel.fn[tuple(sides)](**given)


def _launcher(result: Any) -> Any:
    """In place of one that loads what was built."""
    assert result.kernel is not None
    _now.built += 1
    return SimpleNamespace(config=result.config, n_regs=0, n_spills=0, shared=0, cache_hash="", store_cubin=False)


def _products(left: torch.Tensor, right: torch.Tensor, out_dtype: torch.dtype, out: torch.Tensor) -> torch.Tensor:
    """As the card does them with `out_dtype`."""
    return out.copy_(torch.bmm(left.to(out_dtype), right.to(out_dtype)))


def install() -> None:
    """Let this process compile for such a card from now on."""
    _put(
        torch.cuda,
        # functions apart: dynamo tells them by what they are
        **{name: lambda *_: None for name in ("_lazy_init", "set_device", "set_rng_state")},
        **{name: lambda *_: 0 for name in ("current_device", "_exchange_device", "_maybe_exchange_device")},
        is_available=lambda: True,
        is_initialized=lambda: True,
        device_count=lambda: 1,
        get_device_capability=lambda *_: _card,
        get_device_properties=_properties,
        get_rng_state=lambda *_: torch.get_rng_state(),
    )
    torch._C._ensureCUDADeviceGuardSet()
    _put(torch.accelerator, is_available=lambda: False)
    _put(
        CudaInterface,
        **{name: lambda *_: 0 for name in ("current_device", "exchange_device", "maybe_exchange_device")},
        get_raw_stream=lambda *_: 0,
        get_device_properties=_properties,
        is_available=lambda: True,
        get_compute_capability=lambda *_: 10 * _card[0] + _card[1],
    )
    _put(CudaInterface.Worker, get_device_properties=_properties, current_device=lambda: 0)
    tensor = torch.tensor

    def on_card(data: Any, *, device: Any = None, **kwargs: Any) -> torch.Tensor:
        there = device is not None and torch.device(device).type == "cuda"
        return torch.full((), data, device=device, **kwargs) if there else tensor(data, device=device, **kwargs)

    _put(torch, tensor=on_card)
    inductor.compile_threads = 1  # here, where all this holds
    # what would try things on the card first
    inductor.shape_padding = inductor.joint_graph_constant_folding = False
    triton.runtime.driver.set_active(_Driver())
    _put(triton_helpers, set_driver_to_gpu=lambda: None)
    _put(triton_heuristics.TritonCompileResult, make_launcher=_Method(_launcher))
    _put(triton_heuristics.StaticTritonCompileResult, make_launcher=_Method(_launcher))
    if INTERPRETED:
        _interpret()


def _interpret() -> None:
    _put(triton_heuristics.CachingAutotuner, precompile=lambda *_, **__: None, run=_Method(_run))
    _put(extern_kernels, bmm_dtype=_products)
    # an interpreted kernel finds Triton's functions where it looks them up, but no library's
    math = triton.language.math
    libdevice: Any = triton_helpers.libdevice  # type: ignore[attr-defined]
    _put(libdevice, **{name: lambda one, name=name: getattr(math, name)(one) for name in ("rsqrt", "exp")})
    load = codecache.PyCodeCache.load_by_key_path

    def loaded(*args: Any, **kwargs: Any) -> Any:
        module: Any = load(*args, **kwargs)
        if hasattr(module, "empty_strided_cuda"):
            _put(
                module,
                empty_strided_cuda=lambda shape, strides, dtype: torch.empty_strided(shape, strides, dtype=dtype),
            )
            _put(module, get_raw_stream=lambda _: 0)
        return module

    _put(codecache.PyCodeCache, load_by_key_path=loaded)


class _Method:
    """A function that is to become a method."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function


def _put(owner: Any, **values: Any) -> None:
    """Attributes of modules, and of classes: static ones unless they are told to be methods."""
    for name, value in values.items():
        static = staticmethod(value) if isinstance(owner, type) and callable(value) else value
        setattr(owner, name, value.function if isinstance(value, _Method) else static)
