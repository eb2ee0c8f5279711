"""The device that tests of the model run on: `PALLAS_TEST_DEVICE`, else the CPU."""

from __future__ import annotations

import os

DEVICE = os.environ.get("PALLAS_TEST_DEVICE", "cpu")
