"""Which GPUs this machine has, without loading torch: `serve --workers auto`, and one of them for each worker."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

_PROC = Path("/proc/driver/nvidia/gpus")


def visible(environment: Mapping[str, str] | None = None) -> list[str]:
    """Names of the GPUs as CUDA_VISIBLE_DEVICES takes them; only those that it lets this process see."""
    given = (os.environ if environment is None else environment).get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        # CUDA stops at the first name that is none: -1 or nothing hides all
        names = [name.strip() for name in given.split(",")]
        return names[: next((i for i, name in enumerate(names) if name in ("", "-1")), len(names))]
    if _PROC.is_dir():
        return [str(number) for number in range(len(list(_PROC.iterdir())))]
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        done = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [
        str(number) for number, _ in enumerate(line for line in done.stdout.splitlines() if line.startswith("GPU "))
    ]


def for_worker(number: int, device: str, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """CUDA_VISIBLE_DEVICES for the worker with this number: one GPU each, in turn; nothing where none is to be used."""
    if device not in ("auto", "cuda"):
        return {}
    gpus = visible(environment)
    return {"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else {}
