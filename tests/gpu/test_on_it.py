"""What CUDA does otherwise, on a GPU that is emulated: graphs, streams, devices by number, the resident token step."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
CHOSEN = (
    "gpu/check_rules.py",
    "model/test_encoder.py::test_the_batches_are_of_few_sizes",
    "model/test_opening.py",
)


def test_on_it_all_holds() -> None:
    """In a process of its own, which has no other GPU afterwards; Triton is not emulated, so nothing is compiled."""
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", *(str(TESTS / name) for name in CHOSEN)]
    own = {"PALLAS_TEST_DEVICE": "emulated", "TORCH_COMPILE_DISABLE": "1"}
    done = subprocess.run(command, env={**os.environ, **own}, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:]
