from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.stand_in import TOKEN, StandIn, run_stand_in
from tests.conftest import PICTURES
from tests.http.stack import CONFIG, Stack, run_stack


@pytest.fixture(scope="package")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    folder = tmp_path_factory.mktemp("pictures")
    for picture in PICTURES.glob("*.jpg"):
        shutil.copy(picture, folder)
    shutil.copy(PICTURES / "coffee.jpg", folder / "poison.jpg")
    with run_stand_in(CONFIG, folder) as running:
        yield running


@pytest.fixture
def project(shared: StandIn) -> StandIn:
    """The shared stand-in for Label Studio, emptied and well."""
    shared.clear()
    shared.on_picture = lambda _: None
    return shared


@pytest.fixture(scope="package")
def stack(shared: StandIn, small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Two workers and the embedded Redis; every test leaves them able to go on."""
    own = {"LABEL_STUDIO_URL": shared.url, "LABEL_STUDIO_API_KEY": TOKEN, "PALLAS_MAX_NEW_TOKENS": "6"}
    # a video takes several slices
    own |= {"PALLAS_VIDEO_SLICE_S": "0.1", "PALLAS_VIDEO_FRAME_RATE": "25"}
    with run_stack(tmp_path_factory.mktemp("stack"), small_checkpoint, "--workers", "2", **own) as running:
        yield running
