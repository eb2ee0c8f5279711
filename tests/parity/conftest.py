from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from model import PerceiveAnything
from model.compute.precision import full_float32
from tests.device import DEVICE
from tests.parity.goldens import FOLDER
from tests.parity.weights import write_checkpoint


@pytest.fixture(scope="package")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The goldens' checkpoint: the folder's own weights, or those made from its spec and recipe."""
    if (FOLDER / "pam" / "model.safetensors").is_file() or (FOLDER / "pam" / "model.safetensors.index.json").is_file():
        return FOLDER
    target = tmp_path_factory.mktemp("parity")
    write_checkpoint(FOLDER, target)
    return target


@pytest.fixture(scope="package", autouse=True)
def exactly() -> Iterator[None]:
    """What tests compute beside the product is float32 too; the process goes on with other folders' tests."""
    with full_float32:
        yield


@pytest.fixture(scope="package")
def pam(checkpoint: Path) -> PerceiveAnything:
    (weights,) = checkpoint.glob("*.pt")
    (config,) = checkpoint.glob("*.yaml")
    return PerceiveAnything.from_pretrained(checkpoint / "pam", weights, config, device=DEVICE, dtype="float32")
