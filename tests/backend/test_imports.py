"""Importing without garbage collection leaves the collector as it was."""

from __future__ import annotations

import gc

import pytest

from backend.system.imports import uncollected


def test_collection_goes_on_afterwards_without_what_was_imported() -> None:
    assert gc.isenabled()
    before = gc.get_freeze_count()
    with uncollected():
        assert not gc.isenabled()
        kept = [[] for _ in range(1000)]  # type: ignore[var-annotated]
    try:
        assert gc.isenabled()
        assert gc.get_freeze_count() >= before + len(kept)
    finally:
        gc.unfreeze()


def test_a_failing_import_does_not_leave_it_off() -> None:
    with pytest.raises(ImportError), uncollected():
        raise ImportError("no such library")
    gc.unfreeze()
    assert gc.isenabled()


def test_who_has_it_off_keeps_it_off() -> None:
    gc.disable()
    try:
        with uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
        gc.unfreeze()
