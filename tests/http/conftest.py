from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import PICTURES
from tests.http.stack import PictureHost, Stack, run_host, run_stack


@pytest.fixture(scope="session")
def host() -> Iterator[PictureHost]:
    """A picture host with the demo's pictures."""
    with run_host(PICTURES) as running:
        yield running


@pytest.fixture(scope="session")
def stack(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory, host: PictureHost) -> Iterator[Stack]:
    """One stack for all tests that leave it whole."""
    folder = tmp_path_factory.mktemp("stack")
    roots = folder / "roots"
    roots.mkdir()
    (roots / "coffee.jpg").write_bytes((PICTURES / "coffee.jpg").read_bytes())
    (folder / "outside.jpg").write_bytes((PICTURES / "coffee.jpg").read_bytes())
    (roots / "link.jpg").symlink_to(folder / "outside.jpg")
    with run_stack(
        folder,
        small_checkpoint,
        PALLAS_MAX_NEW_TOKENS="6",
        PALLAS_FETCH_TIMEOUT_S="2",
        PALLAS_MAX_PICTURE_BYTES=str(4 << 20),
        PALLAS_MAX_BODY_BYTES=str(8 << 20),
        PALLAS_MAX_PROMPTS="8",
        PALLAS_LOCAL_ROOTS=str(roots),
        LABEL_STUDIO_URL=host.url,
        LABEL_STUDIO_API_KEY="s3cret-key",
    ) as running:
        yield running
