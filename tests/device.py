"""The device that tests of the model run on: `PALLAS_TEST_DEVICE`, else the CPU; `emulated` is that of `tests.gpu`."""

from __future__ import annotations

import os

import pytest

DEVICE = os.environ.get("PALLAS_TEST_DEVICE", "cpu")
EMULATED = DEVICE == "emulated"

if EMULATED:
    from tests.gpu.emulated import install

    install()
    DEVICE = "cuda:1"

not_emulated = pytest.mark.skipif(
    EMULATED, reason="not emulated: compiling, memory, copies by their number, derivatives, inference mode"
)
