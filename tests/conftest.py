from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from model import PerceiveAnything
from tests.checkpoints import write_small
from tests.device import DEVICE

PICTURES = Path(__file__).parent.parent / "demo" / "pictures"


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quick random-weight checkpoint in the released layout, SAM 2 inside the folder."""
    return write_small(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="session")
def coffee() -> Image.Image:
    return Image.open(PICTURES / "coffee.jpg").convert("RGB")


@pytest.fixture(scope="session")
def pam(small_checkpoint: Path) -> PerceiveAnything:
    return PerceiveAnything.from_pretrained(small_checkpoint, device=DEVICE, dtype="float32")
