from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if "PYTEST_XDIST_WORKER" in os.environ:
    # one of several that run beside each other; read by torch when it is imported, and by what the tests start
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from PIL import Image

from tests.device import DEVICE

if TYPE_CHECKING:
    # not imported here: the process that only hands out the tests does without torch
    from model import PerceiveAnything

# until the tests are collected: what is imported all stays, and to look for garbage in it takes a quarter of the time
gc.disable()

PICTURES = Path(__file__).parent.parent / "demo" / "pictures"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        from tests.together import sort

        sort(items)


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Tests that share a fixture go to the same process, where there are several."""
    from tests.together import Together

    return Together(config, log)


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quick random-weight checkpoint in the released layout, SAM 2 inside the folder."""
    from tests.checkpoints import write_small

    return write_small(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="session")
def coffee() -> Image.Image:
    return Image.open(PICTURES / "coffee.jpg").convert("RGB")


@pytest.fixture(scope="session")
def pam(small_checkpoint: Path) -> PerceiveAnything:
    from model import PerceiveAnything

    return PerceiveAnything.from_pretrained(small_checkpoint, device=DEVICE, dtype="float32")
