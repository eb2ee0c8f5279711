"""The same work in another checkout and in this one, in turns: has anything become slower, or larger?

    git worktree add --detach ../before COMMIT
    python -m benchmarks.paired ../before [--regions 1,4] [--texts 1,2] [--pairs 12] [--checkpoint DIR]

Each side is a process that stays: both do a row's work once, then again, so that each pair lies within seconds. What is
compared is the processor's time of the process, which hardly depends on what else the machine does, and beside it
the clock's; the ratio is the median of the pairs' ratios, above 1 where this checkout is slower. Rows: `warm` has its
picture encoded, `cold` begins with it. The answers of both must be the same. The other checkout's code only has to know
`PerceiveAnything`'s verbs; weights are those of one folder, the bundled ones by default.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parent.parent
_FIELDS = ("processor_s", "clock_s")


class Side:
    """One checkout's process; `run` has it do a row's work once."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, row: str) -> dict[str, Any]:
        """Seconds by `_FIELDS`, `said` and the most memory so far, `peak_gb`; an empty row does nothing."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(row, file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("one of the two ended; what it said is above")
        found: dict[str, Any] = json.loads(line)
        return found


@contextmanager
def side(folder: Path, options: argparse.Namespace) -> Iterator[Side]:
    """The process of a checkout, with its model loaded."""
    # -P: beside this file lie modules that other packages' names would find
    command = [sys.executable, "-P", __file__, str(ROOT), "--work", "--checkpoint", str(options.checkpoint)]
    command += ["--new-tokens", str(options.new_tokens)]
    own = os.environ | {"PYTHONPATH": str(folder)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=folder, env=own, text=True, **pipes) as process:  # type: ignore[call-overload]
        try:
            yield Side(process)
        finally:
            process.stdin.close()
            process.wait(30)


def _work(options: argparse.Namespace) -> None:
    """A side: rows on standard input, a line of JSON each on standard output."""
    from PIL import Image

    from backend.system.memory import peak_bytes
    from benchmarks.pictures import PICTURE, boxes
    from model import PerceiveAnything, Sampling, Task

    pam = PerceiveAnything.from_pretrained(str(options.checkpoint), device="cpu")
    picture = Image.open(PICTURE).convert("RGB")
    tasks = (Task.RECOGNIZE, Task.BRIEF, Task.DETAILED)
    sampling = Sampling(max_new_tokens=options.new_tokens)
    embedding = pam.encode(picture)

    def once(row: str) -> list[Any]:
        kind, regions, texts = row.split()
        kept = embedding if kind == "warm" else pam.encode(picture)
        found = pam.segment(kept, boxes(*picture.size, int(regions)))
        return [
            [one.box, *(said[task].string for task in tasks[: int(texts)])]
            for one, said in zip(found, pam.describe(found, tasks[: int(texts)], sampling=sampling), strict=True)
        ]

    for line in sys.stdin:
        processor, clock = time.process_time(), time.perf_counter()
        said = once(line) if line.strip() else []
        seconds = dict(zip(_FIELDS, (time.process_time() - processor, time.perf_counter() - clock), strict=True))
        print(json.dumps(seconds | {"said": said, "peak_gb": peak_bytes() / 1e9}), flush=True)


def compare(run: Sequence[Callable[[str], dict[str, Any]]], row: str, pairs: int) -> dict[str, Any]:
    """Of one row by `_FIELDS`: medians in seconds before and after, their least, the median of the pairs' ratios."""
    first = [one(row)["said"] for one in run]  # warms both
    if first[0] != first[1]:
        raise SystemExit(f"{row}: the two answer differently:\n{first[0]}\n{first[1]}")
    # who begins takes turns, too
    taken = [_pair(run, row, begins=number % 2) for number in range(pairs)]
    return {
        "row": row,
        **{
            field: {
                "before": median(pair[0][field] for pair in taken),
                "after": median(pair[1][field] for pair in taken),
                "before_least": min(pair[0][field] for pair in taken),
                "after_least": min(pair[1][field] for pair in taken),
                "ratio": median(pair[1][field] / pair[0][field] for pair in taken),
            }
            for field in _FIELDS
        },
    }


def _pair(run: Sequence[Callable[[str], dict[str, Any]]], row: str, begins: int) -> list[dict[str, Any]]:
    """Of the side before and of the one after; one of them begins."""
    found = {place: run[place](row) for place in (begins, 1 - begins)}
    return [found[0], found[1]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table, or one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.paired", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("before", type=Path, help="the other checkout")
    parser.add_argument("--regions", default="1,4", help="of the picture, with commas (1,4)")
    parser.add_argument("--texts", default="1,2", help="of each region, with commas, at most 3 (1,2)")
    parser.add_argument("--pairs", type=int, default=12, help="of runs for each row (12)")
    parser.add_argument("--new-tokens", type=int, default=24, help="of each text at most (24)")
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "model" / "checkpoints" / "tiny", help="a folder")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.work:
        _work(options)
        return
    options.checkpoint = options.checkpoint.resolve()
    cold = [f"cold {regions} {texts}" for regions in options.regions.split(",") for texts in options.texts.split(",")]
    with ExitStack() as both:
        sides = [both.enter_context(side(folder.resolve(), options)) for folder in (options.before, ROOT)]
        rows = [compare([one.run for one in sides], row, options.pairs) for row in ("warm 1 1", *cold)]
        peaks = [one.run("")["peak_gb"] for one in sides]
    if options.json:
        print(json.dumps({"rows": rows, "peak_gb": peaks}))
        return
    print(f"{options.pairs} pairs a row; seconds are medians (least): before, after, median ratio of the pairs")
    for found in rows:
        for field, what in zip(_FIELDS, ("processor", "clock"), strict=True):
            one = found[field]
            before, after = (f"{one[name]:.4f} ({one[f'{name}_least']:.4f})" for name in ("before", "after"))
            print(f"{found['row']:10} {what:9} {before}  {after}  {one['ratio']:.3f}")
    print(f"peak memory, GB: {peaks[0]:.3f}, {peaks[1]:.3f}: {peaks[1] / peaks[0]:.3f}")


if __name__ == "__main__":
    main()
