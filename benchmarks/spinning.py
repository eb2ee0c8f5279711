"""What it costs that threads which wait for each other spin, on cores that others need too.

    python -m benchmarks.spinning [--clicks 30] [--busy N]

Two processes hold the bundled model and click in turn, one with OpenMP's own spinning, one with `GOMP_SPINCOUNT` as
Pallas sets it (`backend/system/threads.py`): first with the cores to themselves, then beside as many busy programs as
there are cores (or N). The ratio is of the same clicks in the same minute.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.table import Table

from backend.system.threads import SETTINGS, spin_shortly

PICTURE = Path(__file__).parent.parent / "demo" / "pictures" / "chelsea.jpg"
_BUSY = "while True: pass"


def click() -> None:
    """A child: for each line of its input one click on a picture that it has not encoded; says the seconds."""
    from PIL import Image

    from model import PerceiveAnything, Prompt, Task

    pam = PerceiveAnything.from_pretrained("tiny", device="cpu")
    image = Image.open(PICTURE).convert("RGB")
    prompts = [Prompt(points=[(image.width / 2, image.height / 2, 1)])]
    pam.perceive(image, prompts, [Task.BRIEF])
    print("ready", flush=True)
    for _ in sys.stdin:
        begin = time.perf_counter()
        pam.perceive(image, prompts, [Task.BRIEF])
        print(time.perf_counter() - begin, flush=True)


class Clicker:
    """One such child."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        command = [sys.executable, "-m", "benchmarks.spinning", "--child"]
        self._process = subprocess.Popen(
            command, env=dict(environment), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._to: IO[str] = self._process.stdin
        self._from: IO[str] = self._process.stdout
        if self._from.readline().strip() != "ready":
            raise SystemExit("a child ended: the model cannot be loaded")

    def click(self) -> float:
        """Seconds."""
        print(file=self._to, flush=True)
        return float(self._from.readline())

    def close(self) -> None:
        self._to.close()
        self._process.wait()


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Programs that always want a core."""
    others = [subprocess.Popen([sys.executable, "-c", _BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--clicks", type=int, default=30)
    parser.add_argument("--busy", type=int, default=cores, help=f"programs beside it ({cores})")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        click()
        return
    theirs = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    ours = dict(theirs)
    spin_shortly(ours)
    clickers = [Clicker(theirs), Clicker(ours)]
    table = Table("beside", "OpenMP's own spinning: median, longest", "as Pallas sets it", "ratio of medians")
    try:
        for count in (0, options.busy):
            with busy(count):
                seconds = list(zip(*([one.click() for one in clickers] for _ in range(options.clicks)), strict=True))
            medians = [statistics.median(mine) for mine in seconds]
            shown = [f"{medians[i]:.2f} s, {max(mine):.2f} s" for i, mine in enumerate(seconds)]
            beside = f"{count} busy programs" if count else "nobody"
            table.add_row(beside, *shown, f"{medians[0] / medians[1]:.2f}")
    finally:
        for one in clickers:
            one.close()
    Console(width=120).print(f"{cores} cores, {options.clicks} clicks each", table)


if __name__ == "__main__":
    main()
