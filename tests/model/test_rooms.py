"""The language model stands without SAM 2; the façade's names are imported when they are first used."""

from __future__ import annotations

import gc
import subprocess
import sys
from importlib import import_module
from types import ModuleType

import pytest

import model


def test_the_language_model_does_not_load_sam2() -> None:
    """In a process of its own."""
    code = "import gc, sys; gc.disable(); import model.language.likelihood; "
    code += "print([name for name in sys.modules if name.startswith('sam2')])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]"


def test_no_garbage_is_looked_for_while_names_are_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    def spy(name: str) -> ModuleType:
        seen.append(gc.isenabled())
        return import_module(name)

    monkeypatch.setattr(model, "import_module", spy)
    assert gc.isenabled() and model.Prompt.__name__ == "Prompt"
    assert seen == [False] and gc.isenabled()
    gc.disable()
    try:
        assert model.Task.__name__ == "Task" and not gc.isenabled()
    finally:
        gc.enable()
