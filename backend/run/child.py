"""`python -m backend serve` as a child process: how the demo, the benchmarks and the tests have the whole stack."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_OURS = ("PALLAS_", "REDIS_", "LABEL_STUDIO_")
_PATIENCE_S = 30.0  # for its own ways of stopping, before it is killed


@dataclass(frozen=True)
class Child:
    """A stack that is ready: its process, the URL of its front, and the line that says so."""

    process: subprocess.Popen[str]
    url: str
    greeting: str

    @property
    def port(self) -> int:
        """The front's port."""
        return int(self.url.rsplit(":", 1)[1])


@contextmanager
def serving(log: Path, *arguments: str, environment: Mapping[str, str]) -> Iterator[Child]:
    """The stack with these arguments on a free port, until the context ends; its stderr goes to the file `log`.

    The child sees this process's environment without settings of Pallas, and `environment`.

    Raises:
        RuntimeError: it ended before it was ready; the message is its log.
        subprocess.TimeoutExpired: it did not stop when it was told to, and was killed.
    """
    others = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "backend", "serve", "--port", "0", *arguments],
            env=others | dict(environment),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if "is ready: " not in line:
                raise RuntimeError(f"the stack did not start:\n{log.read_text()}")
            yield Child(process, line.split("is ready: ")[1].split(" ")[0], line.strip())
        finally:
            process.terminate()
            try:
                process.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
