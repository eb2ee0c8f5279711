"""Which device and which dtype to run on."""

from __future__ import annotations

import torch

from model.errors import DeviceError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


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
    """The dtype of that name; "auto" is bfloat16 or float16 on GPUs and float32 on the CPU.

    Raises:
        DeviceError: an unknown dtype.
    """
    if isinstance(name, torch.dtype):
        dtype = name
    elif name == "auto":
        if device.type == "cuda":
            dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
        else:
            dtype = torch.float16 if device.type == "mps" else torch.float32
    elif name in DTYPES:
        dtype = DTYPES[name]
    else:
        raise DeviceError(f"no dtype {name!r}: give auto, {', '.join(DTYPES)}")
    if dtype not in DTYPES.values():
        raise DeviceError(f"the dtype {dtype} is not supported: give auto, {', '.join(DTYPES)}")
    return dtype
