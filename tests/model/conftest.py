from __future__ import annotations

from pathlib import Path

import pytest

from model import PerceiveAnything


@pytest.fixture(scope="session")
def pam(small_checkpoint: Path) -> PerceiveAnything:
    return PerceiveAnything.from_pretrained(small_checkpoint, device="cpu", dtype="float32")
