"""Which tests run in one process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import conftest
from tests.together import FOLDERS, LONG, Together, sort

NAMES = {
    "tests/e2e/test_bulk.py::test_a[b::c/d]": "e2e",
    "tests/bulk/test_video.py::test_a": "bulk",
    "tests/model/test_pam.py::test_a": "tests/model/test_pam.py",
    "tests/test_benchmarks.py::test_a": "tests/test_benchmarks.py",
    "tests/test_house.py::test_a": "tests/test_house.py",
}


def test_the_folders_and_long_modules_are_there() -> None:
    tests = Path(conftest.__file__).parent
    assert all((tests / folder).is_dir() for folder in FOLDERS)
    assert all((tests.parent / module).is_file() for module in LONG)


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_that_shares_goes_to_one_process_and_else_a_module(name: str) -> None:
    # the scheduler itself needs a whole run
    assert Together._split_scope(Together.__new__(Together), name) == NAMES[name]


def test_the_scheduler_is_asked_for_by_the_hook_that_xdist_knows() -> None:
    from xdist import newhooks

    assert hasattr(newhooks, conftest.pytest_xdist_make_scheduler.__name__)


def test_the_longest_begin_first() -> None:
    class Item:
        def __init__(self, nodeid: str) -> None:
            self.nodeid = nodeid

    items = [Item(name) for name in reversed(NAMES)]
    sort(items)  # type: ignore[arg-type]
    found = [NAMES[item.nodeid] for item in items]
    assert found == ["e2e", "bulk", "tests/test_benchmarks.py", "tests/test_house.py", "tests/model/test_pam.py"]
