"""How the threads that compute wait for each other."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

_SPINS = "10000"
SETTINGS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
"""Variables that say how to wait."""


def spin_shortly(environment: MutableMapping[str, str] = os.environ) -> None:
    """OpenMP's threads look only for a moment whether the others are done, then sleep; before torch is imported.

    By itself each spins for milliseconds. On a machine whose cores others need too (a browser, Label Studio), it then
    keeps the very thread from running that it waits for, and clicks take many times as long
    (`benchmarks/spinning.py`). Left alone where the environment says how to wait.
    """
    if not any(name in environment for name in SETTINGS):
        environment["GOMP_SPINCOUNT"] = _SPINS
