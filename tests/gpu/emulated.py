"""A GPU that is none: tensors that say they are on `cuda:N` and compute on the CPU, by CUDA's rules.

What mixes devices fails as there; graphs (`tests.gpu.graph`) and the order of streams (`tests.gpu.streams`) are those
of a GPU. Not here: kernels, their rounding and their time, memory that runs out, Triton.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_map, tree_map_only

from tests.gpu import streams
from tests.gpu.graph import CAPTURING, Graph, capture, capturing, tensors, whole_of, written

GPUS = 2

_ATEN = torch.ops.aten
# a host that reads what these give waits for the device
_READS = {_ATEN._local_scalar_dense.default, _ATEN.nonzero.default, _ATEN.masked_select.default, _ATEN.equal.default}
_READS |= {_ATEN._unique2.default, _ATEN.unique_consecutive.default, _ATEN.unique_dim.default}
# index tensors may be the host's
_INDEXED = {_ATEN.index.Tensor, _ATEN.index_put.default, _ATEN.index_put_.default, _ATEN._index_put_impl_.default}
_FACTORIES: dict[str, Any] = {
    "empty.memory_format": torch.empty,
    "empty_strided": torch.empty_strided,
    "arange": torch.arange,
    "arange.start": torch.arange,
    "arange.start_step": torch.arange,
    "linspace": torch.linspace,
    "randperm": torch.randperm,
    "eye": torch.eye,
}
_MEMORY = 4 << 30


class OnGpu(torch.Tensor):
    """A tensor of the emulated GPU; its numbers are in `host`."""

    host: torch.Tensor

    @staticmethod
    def __new__(cls, host: torch.Tensor, device: torch.device) -> OnGpu:
        made: OnGpu = torch.Tensor._make_wrapper_subclass(
            cls,
            host.shape,
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            device=device,
        )
        made.host = host
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"OnGpu({self.host!r})"

    def record_stream(self, _: Any) -> None:
        """Memory is not used again by others here."""

    def tolist(self) -> Any:
        return self.cpu().tolist()

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.scaled_dot_product_attention:
            # asks the card which of its kernels to take
            if torch.is_grad_enabled() and any(one.requires_grad for one in tensors((args, kwargs))):
                return _ATEN._scaled_dot_product_attention_math(*args, **(kwargs or {}))[0]
            return _compute(func, args, kwargs or {})
        if func is torch.Tensor.numpy:
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")
        if func is torch.Tensor.data_ptr:
            return args[0].host.data_ptr()
        if func is torch.Tensor.untyped_storage:
            return args[0].host.untyped_storage()
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            args = (args[0], _listed(args[1], args[0].device), *args[2:])
        with torch._C.DisableTorchFunctionSubclass():
            # the inherited one would call all that comes back a tensor of the GPU
            found = func(*args, **(kwargs or {}))
        if func == torch.Tensor.data.__set__:  # type: ignore[attr-defined]
            args[0].host = args[1].host
        return found

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        _check(func, args, kwargs)
        to = kwargs.get("device")
        if to is not None:
            to = torch.device(to)
            kwargs["device"] = torch.device("cpu")
        to_host = to is not None and to.type == "cpu"
        if not (to_host or func in _READS or (func is _ATEN.copy_.default and not isinstance(args[0], OnGpu))):
            return _compute(func, args, kwargs, None if to is None else streams.indexed(to))
        if capturing() is not None:
            raise RuntimeError(f"{CAPTURING}: {func} gives the host what is not computed")
        device = next(one.device for one in tensors((args, kwargs)) if isinstance(one, OnGpu))
        _use(device, func, args, kwargs, ())
        streams.current(device).synchronize()
        args, kwargs = tree_map(_host, (args, kwargs))
        found = func(*args, **kwargs)
        stays = to_host or func is _ATEN.copy_.default
        return found if stays else tree_map_only(torch.Tensor, lambda one: OnGpu(one, device), found)


def _host(one: Any) -> Any:
    return one.host if isinstance(one, OnGpu) else one


def _listed(index: Any, device: torch.device) -> Any:
    """An index with its lists sent to the device, which else goes past whoever looks on."""
    if isinstance(index, tuple):
        return tuple(_listed(one, device) for one in index)
    if not isinstance(index, list | np.ndarray):
        return index
    return (torch.tensor(index) if len(index) else torch.zeros(0, dtype=torch.int64)).to(device)


def _check(func: Any, args: Any, kwargs: Any) -> None:
    """CUDA's rule: all on one device, but for single numbers of the host, and for what copies or indexes."""
    given = tensors((args, kwargs))
    there = [one for one in given if not isinstance(one, OnGpu)]
    if func is _ATEN.copy_.default:
        if there and isinstance(args[0], OnGpu) and capturing() is not None:
            raise RuntimeError(f"{CAPTURING}: a copy from the host")
        return
    if func in _INDEXED:
        indices = [one for one in args[1] if one is not None]
        if capturing() and any(not isinstance(one, OnGpu) or one.dtype == torch.bool for one in indices):
            raise RuntimeError(f"{CAPTURING}: {func} by a mask, or by the host's indices")
        there = [one for one in there if not any(one is other for other in indices)]
    found = {str(one.device) for one in given if isinstance(one, OnGpu)} | {"cpu" for one in there if one.dim()}
    if len(found) > 1:
        raise RuntimeError(f"Expected all tensors to be on the same device, but found {' and '.join(found)}: {func}")
    graph = capturing()
    if graph is not None and str(graph.device) not in found:
        raise RuntimeError(
            f"{func} on {' and '.join(found)} is not part of the graph that is captured on {graph.device}"
        )


def _use(device: torch.device, func: Any, args: Any, kwargs: Any, found: Any) -> None:
    """Tell whose turn it is with the memory of a call."""
    ours = [one for one in tensors((args, kwargs)) if isinstance(one, OnGpu)]
    given = {whole_of(one.host).data_ptr() for one in ours}
    changed = {whole_of(one.host).data_ptr() for one in written(func, args, kwargs) if isinstance(one, OnGpu)}
    made = {whole_of(one).data_ptr() for one in tensors(found)} - given
    views = not changed and not made and bool(tensors(found))
    if not views:
        streams.used(device, given - changed, changed, made, str(func))


def _compute(func: Any, args: Any, kwargs: Any, device: torch.device | None = None) -> Any:
    """A call with the numbers on the host, or with a graph that remembers it; what comes is on `device`, or stays."""
    ours = {id(one.host): one for one in tensors((args, kwargs)) if isinstance(one, OnGpu)}
    where = device or next(iter(ours.values())).device
    on_host, named = tree_map(_host, (tuple(args), dict(kwargs)))
    graph = capturing()
    found = func(*on_host, **named) if graph is None else graph.ask(func, on_host, named)
    if graph is None:
        for other in {one.device for one in ours.values()} - {where}:
            streams.meet(where, other)
        _use(where, func, args, kwargs, found)

    def wrapped(one: torch.Tensor) -> torch.Tensor:
        same = ours.get(id(one))
        if same is None:
            return OnGpu(one, where)
        if same.shape != one.shape:
            with torch._C.DisableTorchFunctionSubclass():
                same.data = OnGpu(one, where)
        return same

    return tree_map_only(torch.Tensor, wrapped, found)


def _factory(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Of tensors on the GPU, from one of the host's."""

    def make(*args: Any, device: Any = None, pin_memory: Any = None, layout: Any = None, **kwargs: Any) -> torch.Tensor:
        kwargs = {name: value for name, value in kwargs.items() if value is not None}
        where, graph = streams.indexed(device), capturing()
        if graph is None:
            made = function(*args, **kwargs)
            streams.used(where, (), (), [whole_of(made).data_ptr()], function.__name__)
        elif where != graph.device:
            raise RuntimeError(f"{function.__name__} on {where} is not part of the graph captured on {graph.device}")
        elif function in (torch.empty, torch.empty_strided):
            made = graph.make(function(*args, **kwargs))
        else:
            made = graph.ask(function, args, kwargs)
        return OnGpu(made, where)

    return make


def _through_host(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Of tensors from numbers, which torch copies to the device past whoever looks on."""

    def make(data: Any, *args: Any, device: Any = None, **kwargs: Any) -> torch.Tensor:
        if isinstance(data, OnGpu):
            return data.to(data.device if device is None else device, *args, **kwargs)
        made = function(data, *args, device="cpu", **kwargs)
        return made.to(torch.empty(0).device if device is None else device)

    return make


def _pageable(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """The same, of memory that needs no driver."""

    def make(*args: Any, pin_memory: bool = False, **kwargs: Any) -> torch.Tensor:
        return function(*args, **kwargs)

    return make


def _nothing(*_: Any, **__: Any) -> None:
    pass


_kept: list[Any] = []


def install() -> None:
    """Let this process have two such GPUs from now on."""
    if _kept:
        return
    # both look at torch's functions once, and want the real ones
    importlib.import_module("torch._dynamo")
    torch.utils._device._device_constructors()
    _kept.append(torch.library.Library("aten", "IMPL", "CUDA"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the real ones are put aside
        for name, function in _FACTORIES.items():
            _kept[0].impl(name, _factory(function), allow_override=True)
    torch._C._ensureCUDADeviceGuardSet()
    for name, value in {
        **dict.fromkeys(("_lazy_init", "empty_cache", "manual_seed", "manual_seed_all"), _nothing),
        **dict.fromkeys(("reset_peak_memory_stats", "set_rng_state"), _nothing),
        **dict.fromkeys(("memory_reserved", "memory_allocated", "max_memory_allocated"), lambda *_: 0),
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: GPUS,
        "current_device": lambda: streams.indexed().index,
        "get_device_name": lambda *_: "an emulated GPU",
        "get_device_capability": lambda *_: (8, 0),
        "is_bf16_supported": lambda **_: True,
        "mem_get_info": lambda *_: (_MEMORY, _MEMORY),
        "get_rng_state": lambda *_: torch.get_rng_state(),
        "is_current_stream_capturing": lambda: capturing() is not None,
        "graph_pool_handle": object,
        "device": streams.on_device,
        "Stream": streams.Stream,
        "Event": streams.Event,
        "stream": streams.on_stream,
        "current_stream": streams.current,
        "default_stream": streams.default,
        "synchronize": streams.synchronize,
        "CUDAGraph": Graph,
        "graph": capture,
    }.items():
        setattr(torch.cuda, name, value)
    setattr(torch.Tensor, "pin_memory", lambda one, *_: one)  # noqa: B010
    for name, value in {
        "empty": _pageable(torch.empty),
        "tensor": _through_host(torch.tensor),
        "as_tensor": _through_host(torch.as_tensor),
        # else modules that are moved keep their host tensors, with the metadata of ours
        "_has_compatible_shallow_copy_type": lambda one, other: isinstance(one, OnGpu) == isinstance(other, OnGpu),
    }.items():
        setattr(torch, name, value)
