from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from backend.__main__ import parser
from backend.tuning import commands
from benchmarks.stand_in import TOKEN, StandIn, run_stand_in
from tests.bulk.conftest import environment
from tests.http.stack import Stack, run_stack
from tests.tuning import made

Backend = Callable[..., subprocess.CompletedProcess[str]]
Steer = Callable[..., str]


@pytest.fixture(scope="package")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the stand-in serves under /data/."""
    return tmp_path_factory.mktemp("pictures")


@pytest.fixture(scope="package")
def project(pictures: Path) -> Iterator[StandIn]:
    """A stand-in for Label Studio with the made-up work."""
    with run_stand_in(made.CONFIG, pictures) as running:
        yield running


@pytest.fixture(scope="package")
def stack(project: StandIn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """With the bundled model: random weights have nothing that could become better."""
    own = {"LABEL_STUDIO_URL": project.url, "LABEL_STUDIO_API_KEY": TOKEN, "PALLAS_MAX_NEW_TOKENS": "6"}
    with run_stack(tmp_path_factory.mktemp("stack"), "tiny", **own) as running:
        yield running


@pytest.fixture(scope="package")
def backend(stack: Stack, project: StandIn) -> Backend:
    """Runs `python -m backend …` to its end, beside the stack."""

    def run(*arguments: Any, code: int = 0) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "backend", *map(str, arguments)]
        done = subprocess.run(
            command, env=environment(stack, project), capture_output=True, text=True, timeout=400, check=False
        )
        assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run


@pytest.fixture(scope="package")
def steer(stack: Stack) -> Steer:
    """What `models`, `promote` and `rollback` print, without a process of their own for each; raises BackendError."""

    def run(*arguments: Any) -> str:
        out = io.StringIO()
        options = parser().parse_args([*map(str, arguments)])
        assert commands.run(stack.settings, options, Console(file=out, width=200)) == 0
        return out.getvalue()

    return run
