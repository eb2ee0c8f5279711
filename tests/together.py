"""Which tests run in one process where there are several: those that share what takes seconds to start.

Not pytest-xdist's `--dist loadgroup`: pytest 9 does not read the names into which that writes the groups.
"""

from __future__ import annotations

import pytest
from xdist.scheduler import LoadScopeScheduling

FOLDERS = ("http", "e2e", "bulk", "tuning", "faults", "parity", "fuzz", "export", "runner")
"""Folders of tests/ whose tests stay together; elsewhere a module's do. The longest first."""

LONG = ("tests/model/test_tracking.py", "tests/test_benchmarks.py", "tests/tiny/test_supply.py")
"""Modules that take nearly as long. These and the folders begin before all others: what begins last should be short, or
one process idles while another works on it.
"""


def group_of(nodeid: str) -> str:
    """Of a test by its name: a folder of tests/, or a module."""
    module = nodeid.split("::", 1)[0]
    folder = module.split("/")[1]
    return folder if folder in FOLDERS else module


class Together(LoadScopeScheduling):
    """A group goes to one process, as a whole."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


def sort(items: list[pytest.Item]) -> None:
    """Groups in the order in which they are to begin."""
    order = {group: place for place, group in enumerate((*FOLDERS, *LONG))}
    items.sort(key=lambda item: order.get(group_of(item.nodeid), len(order)))
