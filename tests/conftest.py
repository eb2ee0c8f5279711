from __future__ import annotations

import os
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:
    # one of several that run beside each other; read by torch when it is imported, and by what the tests start
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from PIL import Image

from model import PerceiveAnything
from tests.checkpoints import write_small
from tests.device import DEVICE

ONE_GROUP = ("e2e",)
"""Folders whose tests share what only one process can have; elsewhere a module's tests stay together."""

PICTURES = Path(__file__).parent.parent / "demo" / "pictures"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share a fixture go to the same process, where there are several (`--dist loadgroup`)."""
    for item in items:
        folder = item.path.parent.name
        item.add_marker(pytest.mark.xdist_group(folder if folder in ONE_GROUP else f"{folder}/{item.path.stem}"))


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
