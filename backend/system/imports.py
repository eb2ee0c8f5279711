"""Importing large libraries fast."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """No garbage collection while the block imports, nor ever among what it left.

    torch and transformers make a million objects that all stay: to look for garbage among them, again and again while
    they grow, is a quarter of the time that importing them takes, and would later delay a click now and then.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()
