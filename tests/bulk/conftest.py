from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from backend.__main__ import parser
from backend.bulk import cli
from benchmarks.stand_in import TOKEN, StandIn, run_stand_in
from tests.conftest import PICTURES
from tests.http.stack import CONFIG, Stack, run_stack

Bulk = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def label_studio() -> Iterator[StandIn]:
    """A stand-in for Label Studio with our config and the demo's pictures."""
    with run_stand_in(CONFIG, PICTURES) as running:
        yield running


@pytest.fixture(scope="package")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the shared stand-in serves under /data/; tests may add to it."""
    folder = tmp_path_factory.mktemp("pictures")
    for picture in PICTURES.glob("*.jpg"):
        shutil.copy(picture, folder)
    return folder


@pytest.fixture(scope="package")
def shared(pictures: Path) -> Iterator[StandIn]:
    with run_stand_in(CONFIG, pictures) as running:
        yield running


@pytest.fixture
def project(shared: StandIn) -> StandIn:
    """The shared stand-in, emptied."""
    shared.clear()
    return shared


@pytest.fixture(scope="package")
def stack(shared: StandIn, small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One stack for all bulk jobs."""
    own = {"LABEL_STUDIO_URL": shared.url, "LABEL_STUDIO_API_KEY": TOKEN, "PALLAS_MAX_NEW_TOKENS": "6"}
    own |= {"PALLAS_FETCH_TIMEOUT_S": "60", "PALLAS_JOB_TIMEOUT_S": "70"}  # longer than tests hold a picture back
    with run_stack(tmp_path_factory.mktemp("stack"), small_checkpoint, **own) as running:
        yield running


def environment(stack: Stack, label_studio: StandIn) -> dict[str, str]:
    """Of programs beside the stack."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PALLAS_", "REDIS_", "LABEL_STUDIO_"))}
    own = {"PALLAS_STATE_DIR": str(stack.settings.state_dir), "PALLAS_HEARTBEAT_S": "0.5", "PALLAS_DEVICE": "cpu"}
    own |= {"LABEL_STUDIO_URL": label_studio.url, "LABEL_STUDIO_API_KEY": TOKEN, "PALLAS_MODEL": stack.settings.model}
    # who asks says how long the answers may be, not the worker: those of random weights never end
    tokens = "PALLAS_MAX_NEW_TOKENS"
    own |= {tokens: stack.environment[tokens]} if tokens in stack.environment else {}
    return clean | own | {"COLUMNS": "200"}


@pytest.fixture
def bulk(stack: Stack, project: StandIn) -> Bulk:
    """Runs `python -m backend bulk …` to its end; what only looks into the books, without a process of its own."""

    def look(*arguments: Any) -> subprocess.CompletedProcess[str]:
        out = io.StringIO()
        options = parser().parse_args(["bulk", *map(str, arguments)])
        code = cli.run(stack.settings, options, Console(file=out, width=200))
        return subprocess.CompletedProcess(arguments, code, out.getvalue(), "")

    def run(*arguments: Any, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        if arguments[:1] in (("status",), ("failed",)) and code == 0:
            return look(*arguments)
        command = [sys.executable, "-m", "backend", "bulk", *map(str, arguments)]
        done = subprocess.run(
            command, env=environment(stack, project), capture_output=True, text=True, timeout=180, check=False
        )
        assert code is None or done.returncode == code, f"{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run
