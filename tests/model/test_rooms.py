"""The language model stands without SAM 2."""

from __future__ import annotations

import subprocess
import sys


def test_the_language_model_does_not_load_sam2() -> None:
    """In a process of its own."""
    code = "import sys, model.language.likelihood; print([name for name in sys.modules if name.startswith('sam2')])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]"
