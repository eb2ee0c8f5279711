"""Processes that work for another: without it they end.

A pool's processes wait for work at a pipe whose both ends they hold, for ever where the process of the pool was killed.
"""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing.process import BaseProcess
from threading import Thread


def end_with_parent() -> None:
    """Called in a process of a pool: it ends as soon as the one that began it is gone, however that went."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        Thread(target=_follow, args=[parent], daemon=True).start()


def _follow(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)
