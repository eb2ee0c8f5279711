"""The released model as it is published, without a network: what a copied hub cache serves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from model.loading.hub import BUNDLED
from tests.conftest import PICTURES
from tests.http.stack import data_url, point, run_stack
from tests.hub import COMMIT, PAM, nested, write_cache


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """HF_HOME with `tiny` under PAM-3B's name, nested as published."""
    folder = tmp_path_factory.mktemp("home")
    write_cache(folder, PAM, nested(BUNDLED / "tiny", sam2=True))
    return folder


def test_a_nested_cache_serves_clicks_without_a_network(home: Path, tmp_path: Path) -> None:
    """`make serve` with PALLAS_MODEL=PAM-3B."""
    environment = {"PALLAS_MODEL": "PAM-3B", "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    with run_stack(tmp_path / "stack", None, **environment) as stack:
        sign = stack.wait_for_worker()
        picture = data_url((PICTURES / "coffee.jpg").read_bytes(), "image/jpeg")
        (prediction,) = stack.predict(picture, [point(50, 50)]).json()["results"]
    assert sign.model_version.startswith("PAM-3B@") and prediction["model_version"] == sign.model_version
    assert {"brushlabels", "textarea"} <= {item["type"] for item in prediction["result"]}


def test_a_cache_without_it_is_said_at_the_start(tmp_path: Path) -> None:
    environment = os.environ | {"PALLAS_STATE_DIR": str(tmp_path / "state"), "HF_HOME": str(tmp_path)}
    worker = subprocess.run(
        [sys.executable, "-m", "backend", "worker", "--model", f"PAM-3B@{COMMIT[PAM]}"],
        env=environment | {"HF_HUB_OFFLINE": "1"},
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert worker.returncode == 1
    assert "CheckpointError: cannot download" in worker.stderr and "HF_HUB_OFFLINE is set" in worker.stderr
    assert "Traceback" not in worker.stderr
