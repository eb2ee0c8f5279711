"""The token step's layer, compiled for GPUs that are not here: Triton's kernels are built, and computed on the CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKS = Path(__file__).with_name("check_kernels.py")


@pytest.mark.parametrize("interpreted", [False, True], ids=["built", "interpreted"])
def test_the_layers_kernels(interpreted: bool) -> None:
    own = {"TRITON_INTERPRET": "1"} if interpreted else {}
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", str(CHECKS)]
    done = subprocess.run(command, env={**os.environ, **own}, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:]
