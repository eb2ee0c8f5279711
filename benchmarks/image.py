"""Seconds for regions and texts of a picture: shared and batched, against one region and one text at a time.

    python -m benchmarks.image [--checkpoint DIR --sam2 PATH --config YAML] [--regions 1,4,16] [--texts 1,2,3]

The plain way is the reference's: for each region and text it encodes the picture, decodes the mask, reads the whole
prompt and calls transformers' generate(). Same weights, same process; both take turns, and each ratio is the median of
its pairs. Rows: `cold` begins with the picture, `warm` has it encoded before (the plain way encodes it again), `labels`
compares choosing among 100 labels with answering one question. Beside the ratio stands what arithmetic allows: the
ratio of floating point operations counted in one run of each.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.labels import labels
from model import PerceiveAnything, Prompt, Task
from model.language import Sampling
from model.task import instruction

PICTURE = Path(__file__).parent.parent / "demo" / "pictures" / "coffee.jpg"
TASKS = (Task.RECOGNIZE, Task.DETAILED, Task.EXPLAIN)


@dataclass(frozen=True)
class Row:
    """One measurement; seconds are medians, operations are floating point operations of one run."""

    kind: str
    regions: int
    texts: int
    ours_s: float
    plain_s: float
    ratio: float
    ours_operations: float
    plain_operations: float

    @property
    def bound(self) -> float:
        """The ratio that the operations allow."""
        return self.plain_operations / max(self.ours_operations, 1.0)


@dataclass(frozen=True)
class Bench:
    """A loaded model, a picture, and as many tokens for every text."""

    pam: PerceiveAnything
    picture: Image.Image
    tokens: int

    @property
    def sampling(self) -> Sampling:
        return Sampling(max_new_tokens=self.tokens, suppress_end=True, repetition_penalty=1.0)

    def prompts(self, count: int) -> list[Prompt]:
        """Boxes from a fixed seed, in the middle half to the whole of the picture."""
        rng = np.random.default_rng(0)
        width, height = self.picture.size
        boxes = []
        for _ in range(count):
            w, h = rng.uniform(0.15, 0.5) * width, rng.uniform(0.15, 0.5) * height
            x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
            boxes.append(Prompt(box=(int(x), int(y), int(x + w), int(y + h))))
        return boxes

    def ours(self, prompts: Sequence[Prompt], tasks: Sequence[Task], embedding: object = None) -> list[list[int]]:
        """Token ids, region by region and task by task."""
        kept = embedding if embedding is not None else self.pam.encode(self.picture)
        asked = [instruction(task) for task in tasks]
        return [
            list(answer.token_ids)
            for reading in self.pam.readings(self.pam.segment(kept, prompts))  # type: ignore[arg-type]
            for row in self.pam.language.answer(reading.prefix, asked, self.sampling)
            for answer in row
        ]

    def plain(self, prompts: Sequence[Prompt], tasks: Sequence[Task]) -> list[list[int]]:
        """The same tokens, the reference's way."""
        found = []
        for prompt in prompts:
            for task in tasks:
                (region,) = self.pam.segment(self.pam.encode(self.picture), [prompt])
                vectors = self.pam.language.embed(self.pam.image_blocks([region])[0], instruction(task))
                (answer,) = self.pam.language.generate([vectors], self.sampling)
                found.append(list(answer.token_ids))
        return found


def compare(
    bench: Bench,
    name: tuple[str, int, int],
    ours: Callable[[], object],
    plain: Callable[[], object],
    times: int,
    alone: Callable[[], object] | None = None,
) -> Row:
    """Run both by turns, after a run in which operations are counted.

    `alone` is the plain way for one region, where it does the same for each: counting it once is enough.
    """
    kind, regions, texts = name
    counted = _operations(ours), _operations(alone or plain) * (regions if alone else 1)
    pairs = [(_seconds(ours, bench), _seconds(plain, bench)) for _ in range(times)]
    fast, slow = (median(column) for column in zip(*pairs, strict=True))
    return Row(kind, regions, texts, fast, slow, median(b / a for a, b in pairs), *counted)


def _operations(work: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


def _seconds(work: Callable[[], object], bench: Bench) -> float:
    begin = time.perf_counter()
    work()
    if bench.pam.device.type == "cuda":
        torch.cuda.synchronize(bench.pam.device)
    return time.perf_counter() - begin


def measure(bench: Bench, regions: Sequence[int], texts: Sequence[int], times: int, console: Console) -> list[Row]:
    """All rows. Raises AssertionError where the two ways do not say the same."""
    rows = []
    one, first = bench.prompts(1), TASKS[:1]
    assert bench.ours(bench.prompts(2), TASKS[:2]) == bench.plain(bench.prompts(2), TASKS[:2]), "the answers differ"
    embedding = bench.pam.encode(bench.picture)
    warm = ("warm", 1, 1)
    rows.append(compare(bench, warm, lambda: bench.ours(one, first, embedding), lambda: bench.plain(one, first), times))
    for count, asked in track([(r, t) for r in regions for t in texts], "cold", console=console, transient=True):
        prompts, tasks = bench.prompts(count), TASKS[:asked]
        rows.append(
            compare(
                bench,
                ("cold", count, asked),
                lambda: bench.ours(prompts, tasks),  # noqa: B023
                lambda: bench.plain(prompts, tasks),  # noqa: B023
                times,
                lambda: bench.plain(prompts[:1], tasks),  # noqa: B023
            )
        )
    found, names, hundred = bench.pam.segment(embedding, one), labels(100), ("labels", 1, 100)
    rows.append(
        compare(
            bench,
            hundred,
            lambda: bench.pam.score(found, names),
            lambda: bench.ours(one, first, embedding),
            times,
        )
    )
    return rows


def peak(arguments: Sequence[str], side: str) -> float:
    """Peak memory of a process that does the largest row one way, in GB: resident, or on the GPU."""
    command = [sys.executable, "-m", "benchmarks.image", *arguments, "--only", side]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.strip().splitlines()[-1])


def _load(options: argparse.Namespace) -> Bench:
    pam = PerceiveAnything.from_pretrained(
        options.checkpoint, options.sam2, options.config, options.device, options.dtype
    )
    return Bench(pam, Image.open(options.picture).convert("RGB"), options.new_tokens)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, and write the rows as JSON and a plot where a folder is given."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.image", description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", default="tiny", help="name or folder")
    parser.add_argument("--sam2", help="SAM 2 weights, where the folder has none")
    parser.add_argument("--config", help="their Hydra config")
    parser.add_argument("--picture", type=Path, default=PICTURE)
    parser.add_argument("--regions", default="1,4,16")
    parser.add_argument("--texts", default="1,2,3")
    parser.add_argument("--new-tokens", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--out", type=Path, help="folder for image.json and image.png")
    parser.add_argument("--only", choices=("ours", "plain"), help=argparse.SUPPRESS)
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(given)
    regions, texts = ([int(n) for n in value.split(",")] for value in (options.regions, options.texts))
    bench = _load(options)
    if options.only:
        getattr(bench, options.only)(bench.prompts(max(regions)), TASKS[: max(texts)])
        on_gpu = bench.pam.device.type == "cuda"
        taken = (
            torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        )
        print(taken / 1e9)
        return
    console = Console()
    rows = measure(bench, regions, texts, options.repeats, console)
    table = Table("", "regions", "texts", "ours, s", "plain, s", "ratio", "bound of operations")
    for row in rows:
        if row.kind == "labels":
            share = 1 / row.ratio
            console.print(
                f"100 labels take {row.ours_s:.3f} s, {share:.2f} times as long as one answer ({row.plain_s:.3f} s)"
            )
            continue
        table.add_row(
            row.kind,
            str(row.regions),
            str(row.texts),
            f"{row.ours_s:.3f}",
            f"{row.plain_s:.3f}",
            f"{row.ratio:.2f}",
            f"{row.bound:.2f}",
        )
    pam = bench.pam
    where = f"{torch.get_num_threads()} threads" if pam.device.type == "cpu" else torch.cuda.get_device_name(pam.device)
    console.print(
        table, f"{pam.name}, {pam.device}, {where}; medians of {options.repeats}, {options.new_tokens} tokens"
    )
    memory = {side: peak(given, side) for side in ("ours", "plain")}
    console.print(f"peak memory at {max(regions)} regions × {max(texts)} texts: {memory} GB")
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        report = {"rows": [asdict(row) | {"bound": row.bound} for row in rows], "peak_gb": memory}
        (options.out / "image.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        _plot(rows, options.out / "image.png")


def _plot(rows: Sequence[Row], target: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, chart = pyplot.subplots(figsize=(7, 4))
    cold = [row for row in rows if row.kind == "cold"]
    for texts in sorted({row.texts for row in cold}):
        mine = [row for row in cold if row.texts == texts]
        (line,) = chart.plot([r.regions for r in mine], [r.ratio for r in mine], "o-", label=f"{texts} texts")
        chart.plot([r.regions for r in mine], [r.bound for r in mine], "--", color=line.get_color(), alpha=0.5)
    chart.set(xscale="log", xlabel="regions of one picture", ylabel="times as fast as one by one")
    chart.set_title("solid: measured; dashed: what the operations allow", fontsize=9)
    chart.grid(alpha=0.3)
    chart.legend()
    figure.tight_layout()
    figure.savefig(target, dpi=90)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
