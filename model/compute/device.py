"""Which device and which dtype to run on."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from model.compute import compiler
from model.errors import DeviceError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
QUANTIZATIONS = ("none", "int8")
EIGHT_BITS = "linear_with_input_q_dq_qweight_dq_output_fp32"


def pick_device(name: str | torch.device = "auto") -> torch.device:
    """The device of that name; "auto" is the first of cuda, mps and cpu that is there.

    Raises:
        DeviceError: an unknown name, or a device that this machine does not have.
    """
    if str(name) == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DeviceError(f"no device {str(name)!r}: give auto, cpu, cuda, cuda:N or mps") from None
    if device.type not in ("cpu", "cuda", "mps"):
        raise DeviceError(f"the device {str(name)!r} is not supported: give auto, cpu, cuda, cuda:N or mps")
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise DeviceError(
                f"this machine shows {count} CUDA devices, not {device}: check `nvidia-smi`, the container's GPU "
                "setting and CUDA_VISIBLE_DEVICES, or run with --device cpu"
            )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("this machine has no MPS device: run with --device cpu")
    return device


def pick_dtype(name: str | torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype of that name; "auto" is bfloat16 on GPUs that compute in it, float16 on others, float32 on the CPU.

    Whether the device computes quickly in a dtype that was named is not asked.

    Raises:
        DeviceError: another dtype than those of `DTYPES`.
    """
    if isinstance(name, torch.dtype):
        dtype = name
    elif name == "auto":
        if device.type == "cuda":
            with torch.cuda.device(device):
                # T4 and V100 emulate bfloat16, slowly
                own = torch.cuda.is_bf16_supported(including_emulation=False)
            dtype = torch.bfloat16 if own else torch.float16
        else:
            dtype = torch.float16 if device.type == "mps" else torch.float32
    elif name in DTYPES:
        dtype = DTYPES[name]
    else:
        raise DeviceError(f"no dtype {name!r}: give auto, {', '.join(DTYPES)}")
    if dtype not in DTYPES.values():
        raise DeviceError(f"the dtype {dtype} is not supported: give auto, {', '.join(DTYPES)}")
    return dtype


def quantizes(kind: str, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether to quantize, by the name of how.

    Raises:
        DeviceError: an unknown name, or a device, dtype or build of torch that does not do it.
    """
    if kind not in QUANTIZATIONS:
        raise DeviceError(f"no quantization {kind!r}: give {' or '.join(QUANTIZATIONS)}")
    if kind == "none":
        return False
    if device.type != "cpu":
        raise DeviceError(f"quantize {kind} is for CPUs, not {device}: leave it out there, or run with --device cpu")
    if dtype != torch.float32:
        raise DeviceError(
            f"quantize {kind} goes with dtype float32, not {str(dtype).removeprefix('torch.')}: leave one of both out"
        )
    if "fbgemm" not in torch.backends.quantized.supported_engines or not hasattr(torch.ops.quantized, EIGHT_BITS):
        raise DeviceError(
            f"quantize {kind} needs an x86 processor and a torch with FBGEMM: leave it out on this machine"
        )
    return True


def held_back(device: torch.device) -> str:
    """Why nothing can be compiled for the device here, and what to do about it; empty where all is well."""
    return compiler.lacks() if device.type == "cuda" else ""


def free_bytes(device: torch.device) -> int | None:
    """Memory that is free on a GPU, or for this process on a Linux host; None where that is not known."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # what torch holds and does not use is free too
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    if device.type != "cpu":
        return None
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None
    limit, used = (_cgroup(name) for name in ("memory.max", "memory.current"))
    if limit is not None and used is not None:
        free = min(free, int(limit[0]) - int(used[0]))
    return max(0, free)


def usable_cores() -> int:
    """Processor cores that this process may use: the machine's, less by affinity and by a container's limit."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup("cpu.max")
    if quota is not None and len(quota) == 2:
        cores = min(cores, -(-int(quota[0]) // int(quota[1])))
    return max(1, cores)


def share_cores(processes: int) -> int:
    """Let this process compute with its share of the cores, where so many compute at once; how many that are.

    More threads than cores make all of them slower.
    """
    threads = max(1, min(torch.get_num_threads(), usable_cores() // max(1, processes)))
    torch.set_num_threads(threads)
    return threads


def _cgroup(name: str) -> list[str] | None:
    """The words of a control file of this process's group (cgroup 2); None where there is no limit."""
    try:
        words = Path("/sys/fs/cgroup", name).read_text(encoding="ascii").split()
    except OSError:
        return None
    return words if words and words[0] != "max" else None
