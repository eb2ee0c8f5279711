"""How the threads that compute wait for each other."""

from __future__ import annotations

import os

_SPINS = "10000"
_SAID = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def spin_shortly() -> None:
    """OpenMP's threads look only for a moment whether the others are done, then sleep; before torch is imported.

    By itself each spins for milliseconds. On a machine whose cores others need too (a browser, Label Studio), it then
    keeps the very thread from running that it waits for, and clicks take many times as long. Left alone where the
    environment says how to wait.
    """
    if not any(name in os.environ for name in _SAID):
        os.environ["GOMP_SPINCOUNT"] = _SPINS
