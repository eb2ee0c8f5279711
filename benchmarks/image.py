"""Seconds for regions and texts of a picture: shared and batched, against one region and one text at a time.

    python -m benchmarks.image [--checkpoint DIR --sam2 PATH --config YAML] [--regions 1,4,16] [--texts 1,2,3]

The plain way is the reference's: for each region and text it encodes the picture, decodes the mask, reads the whole
prompt and calls transformers' generate(). Same weights, same process; both take turns, and each ratio is the median of
its pairs. Rows: `cold` begins with the picture, `warm` has it encoded before (the plain way encodes it again), `labels`
compares choosing among 100 labels with answering one question. Beside the ratio stands what arithmetic allows: the
ratio of floating point operations counted in one run of each, and the seconds of ours at the machine's best.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median

import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from backend.system.memory import peak_bytes
from benchmarks.bounds import Machine, Work, operations
from benchmarks.labels import labels
from benchmarks.pictures import PICTURE, boxes
from benchmarks.plain import blocks, embed, endless, generate, torchs_kernels
from model import PerceiveAnything, Prompt, Sampling, Task
from model.errors import ModelError
from model.reading import REGIONS_ON_CPU, REGIONS_ON_GPU
from model.values.task import instruction

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
    ours_floor_s: float
    plain_floor_s: float
    pairs: int

    @property
    def bound(self) -> float:
        """The ratio that the operations allow."""
        return self.plain_operations / max(self.ours_operations, 1.0)

    @property
    def reached(self) -> float:
        """How near to the machine's best, 0..1."""
        return self.ours_floor_s / self.ours_s

    def cells(self) -> list[str]:
        times = [f"{value:.3f}" for value in (self.ours_s, self.plain_s)]
        ratios = [f"{value:.2f}" for value in (self.ratio, self.bound, self.ours_floor_s, self.reached)]
        return [self.kind, str(self.regions), str(self.texts), *times, *ratios, str(self.pairs)]


@dataclass(frozen=True)
class Patience:
    """How many pairs of runs, and after how many seconds no new one."""

    pairs: int
    seconds: float

    def more(self, done: int, taken_s: float) -> bool:
        return done == 0 or (done < self.pairs and taken_s < self.seconds)


@dataclass(frozen=True)
class Bench:
    """A loaded model, a picture, and as many tokens for every text."""

    pam: PerceiveAnything
    picture: Image.Image
    tokens: int
    machine: Machine
    stock: bool
    clock: Callable[[], float] = time.perf_counter

    def batches(self, regions: int) -> int:
        """How many times so many regions are read and answered together."""
        return -(-regions // (REGIONS_ON_CPU if self.pam.device.type == "cpu" else REGIONS_ON_GPU))

    def work(self, counted: float, texts: int, batches: int) -> Work:
        weights = list(self.pam.language.model.parameters())
        return Work(
            counted,
            self.tokens,
            texts / batches,
            batches,
            sum(w.numel() for w in weights),
            sum(w.numel() * w.element_size() for w in weights),
        )

    @property
    def sampling(self) -> Sampling:
        return Sampling(max_new_tokens=self.tokens, repetition_penalty=1.0)

    def prompts(self, count: int) -> list[Prompt]:
        """Boxes from a fixed seed."""
        return boxes(*self.picture.size, count)

    def ours(self, prompts: Sequence[Prompt], tasks: Sequence[Task], embedding: object = None) -> list[list[int]]:
        """Token ids, region by region and task by task."""
        kept = embedding if embedding is not None else self.pam.encode(self.picture)
        asked = [instruction(task) for task in tasks]
        with endless(self.pam.language):
            return [
                list(answer.token_ids)
                for reading in self.pam.readings(self.pam.segment(kept, prompts))  # type: ignore[arg-type]
                for row in self.pam.language.answer(reading.prefix, asked, self.sampling)
                for answer in row
            ]

    def plain(self, prompts: Sequence[Prompt], tasks: Sequence[Task]) -> list[list[int]]:
        """The same tokens, the reference's way."""
        found = []
        language = self.pam.language
        with endless(language), torchs_kernels(self.pam) if self.stock else nullcontext():
            for prompt in prompts:
                for task in tasks:
                    (region,) = self.pam.segment(self.pam.encode(self.picture), [prompt])
                    vectors = embed(language, blocks(self.pam, [region])[0], instruction(task))
                    (answer,) = generate(language, [vectors], self.sampling)
                    found.append(list(answer.token_ids))
        return found


def compare(
    bench: Bench,
    name: tuple[str, int, int],
    ours: Callable[[], object],
    plain: Callable[[], object],
    counted: tuple[Work, Work],
    patience: Patience,
) -> Row:
    """Run both by turns and take the medians; how often says `patience`."""
    kind, regions, texts = name
    pairs: list[tuple[float, float]] = []
    begin = time.perf_counter()
    while patience.more(len(pairs), time.perf_counter() - begin):
        pairs.append((_seconds(ours, bench), _seconds(plain, bench)))
    fast, slow = (median(column) for column in zip(*pairs, strict=True))
    floors = [work.floor_s(bench.machine) for work in counted]
    return Row(
        kind,
        regions,
        texts,
        fast,
        slow,
        median(b / a for a, b in pairs),
        counted[0].operations,
        counted[1].operations,
        floors[0],
        floors[1],
        len(pairs),
    )


def _seconds(work: Callable[[], object], bench: Bench) -> float:
    begin = bench.clock()
    work()
    if bench.pam.device.type == "cuda":
        torch.cuda.synchronize(bench.pam.device)
    return bench.clock() - begin


def measure(bench: Bench, regions: Sequence[int], texts: Sequence[int], patience: Patience) -> Iterator[Row]:
    """The rows one after the other. Raises AssertionError where the two ways do not say the same."""
    one, first = bench.prompts(1), TASKS[:1]
    assert bench.ours(bench.prompts(2), TASKS[:2]) == bench.plain(bench.prompts(2), TASKS[:2]), "the answers differ"
    embedding = bench.pam.encode(bench.picture)
    # the plain way does the same for each region and text: counting one is enough
    alone = operations(lambda: bench.plain(one, first))
    warm = bench.work(operations(lambda: bench.ours(one, first, embedding)), 1, 1)
    yield compare(
        bench,
        ("warm", 1, 1),
        lambda: bench.ours(one, first, embedding),
        lambda: bench.plain(one, first),
        (warm, bench.work(alone, 1, 1)),
        patience,
    )
    for count in regions:
        for asked in texts:
            prompts, tasks = bench.prompts(count), TASKS[:asked]
            ours, plain = partial(bench.ours, prompts, tasks), partial(bench.plain, prompts, tasks)
            together = bench.work(operations(ours), count * asked, bench.batches(count))
            apart = bench.work(alone * count * asked, count * asked, count * asked)
            yield compare(bench, ("cold", count, asked), ours, plain, (together, apart), patience)
    found, names = bench.pam.segment(embedding, one), labels(100)
    chosen = Work(operations(lambda: bench.pam.score(found, names)), 0, 0, 0, 0, 0)
    yield compare(
        bench,
        ("labels", 1, 100),
        lambda: bench.pam.score(found, names),
        lambda: bench.ours(one, first, embedding),
        (chosen, warm),
        patience,
    )


def peak(arguments: Sequence[str], side: str) -> float:
    """Peak memory of a process that does the largest row one way, in GB: resident, or on the GPU."""
    command = [sys.executable, "-m", "benchmarks.image", *arguments, "--only", side]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the process for peak memory ended with {done.returncode}:\n{done.stderr}")
    return float(done.stdout.strip().splitlines()[-1])


def _peak_here(bench: Bench, side: str, regions: int, texts: int) -> float:
    if side == "ours":
        bench.ours(bench.prompts(regions), TASKS[:texts])
    else:
        # one by one needs no more for more of them
        bench.plain(bench.prompts(min(regions, 4)), TASKS[: min(texts, 2)])
    if bench.pam.device.type == "cuda":
        return torch.cuda.max_memory_allocated(bench.pam.device) / 1e9
    return peak_bytes() / 1e9


def _load(options: argparse.Namespace) -> Bench:
    try:
        pam = PerceiveAnything.from_pretrained(
            options.checkpoint, options.sam2, options.config, options.device, options.dtype, options.compile
        )
        picture = Image.open(options.picture).convert("RGB")
    except (ModelError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
    clock = time.process_time if options.cpu_time else time.perf_counter
    machine = Machine.measure(pam.device, pam.dtype, clock) if not options.only else Machine(1, 1)
    return Bench(pam, picture, options.new_tokens, machine, options.plain_kernels == "stock", clock)


def _numbers(most: int) -> Callable[[str], list[int]]:
    def read(value: str) -> list[int]:
        numbers = [int(part) for part in value.split(",")]
        if not all(1 <= number <= most for number in numbers):
            raise ValueError
        return numbers

    read.__name__ = f"numbers from 1 to {most}"
    return read


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.image", description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", default="tiny", help="name or folder")
    parser.add_argument("--sam2", help="SAM 2 weights, where the folder has none")
    parser.add_argument("--config", help="their Hydra config")
    parser.add_argument("--picture", type=Path, default=PICTURE)
    parser.add_argument("--regions", type=_numbers(1024), default="1,4,16", help="with commas")
    parser.add_argument("--texts", type=_numbers(len(TASKS)), default="1,2,3", help="for each region, with commas")
    parser.add_argument("--new-tokens", type=int, default=24, help="of each text")
    parser.add_argument("--repeats", type=int, default=3, help="pairs of runs for each row")
    parser.add_argument("--seconds", type=float, default=180, help="no new pair of a row is begun after this long")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument(
        "--compile", action="store_true", help="compile the encoder, on CUDA as ever, and what tracks videos"
    )
    parser.add_argument(
        "--plain-kernels",
        choices=("stock", "ours"),
        default="stock",
        help="whether the plain way computes as torch does by itself, or as we do: what sharing alone is worth",
    )
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="seconds of the processor instead of the clock, where others use the machine too; with OMP_NUM_THREADS=1",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, the table on stderr")
    parser.add_argument("--out", type=Path, help="folder for image.json and image.png")
    parser.add_argument("--only", choices=("ours", "plain"), help=argparse.SUPPRESS)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, and write the rows as JSON and a plot where a folder is given."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given)
    bench = _load(options)
    most = (max(options.regions), max(options.texts))
    if options.only:
        print(_peak_here(bench, options.only, *most))
        return
    console = Console(stderr=options.json)
    pam, machine = bench.pam, bench.machine
    where = f"{torch.get_num_threads()} threads" if pam.device.type == "cpu" else torch.cuda.get_device_name(pam.device)
    unit = "CPU seconds" if options.cpu_time else "seconds"
    console.print(
        f"{pam.name}, {pam.device} ({where}), {pam.dtype}, {options.new_tokens} tokens, {unit}; the plain way with "
        f"{options.plain_kernels} kernels; this machine at best: {machine.operations_per_s / 1e9:.0f} GFLOP/s, "
        f"{machine.bytes_per_s / 1e9:.1f} GB/s"
    )
    rows = []
    columns = ("regions", "texts", "ours, s", "plain, s", "ratio", "operations allow", "floor, s", "reached", "runs")
    table = Table("", *columns)
    for row in measure(bench, options.regions, options.texts, Patience(options.repeats, options.seconds)):
        rows.append(row)
        console.print(f"{row.kind} {row.regions}×{row.texts}: {row.ours_s:.3f} s, {row.plain_s:.3f} s: {row.ratio:.2f}")
        if row.kind != "labels":
            table.add_row(*row.cells())
    chosen = rows[-1]
    memory = {side: peak(given, side) for side in ("ours", "plain")}
    console.print(table)
    console.print(
        "floor: operations and the weights read once a token, at this machine's best; reached: floor / ours.\n"
        f"100 labels take {chosen.ours_s:.3f} s, {1 / chosen.ratio:.2f} times as long as one answer "
        f"({chosen.plain_s:.3f} s).\n"
        f"peak memory at {most[0]} regions × {most[1]} texts: "
        f"ours {memory['ours']:.2f} GB, plain {memory['plain']:.2f} GB"
    )
    report = {
        "rows": [asdict(row) | {"operations_ratio": row.bound, "reached": row.reached} for row in rows],
        "peak_gb": memory,
        "machine": asdict(machine) | {"device": str(pam.device), "where": where, "dtype": str(pam.dtype)},
        "command": ["python", "-m", "benchmarks.image", *given],
        "plain_kernels": options.plain_kernels,
        "clock": "cpu" if options.cpu_time else "wall",
    }
    if options.json:
        print(json.dumps(report))
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
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
        (line,) = chart.plot(
            [r.regions for r in mine], [r.ratio for r in mine], "o-", label=f"{texts} text{'s' * (texts > 1)}"
        )
        chart.plot([r.regions for r in mine], [r.bound for r in mine], "--", color=line.get_color(), alpha=0.5)
    chart.set(xscale="log", xlabel="regions of one picture", ylabel="times as fast as one by one")
    chart.set_xticks(counts := sorted({row.regions for row in cold}), [str(count) for count in counts])
    chart.minorticks_off()
    chart.set_title("solid: measured; dashed: what the operations allow", fontsize=9)
    chart.grid(alpha=0.3)
    chart.legend()
    figure.tight_layout()
    figure.savefig(target, dpi=90)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
