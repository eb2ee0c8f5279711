"""Seconds of the language model in eight bits against float32, on a CPU: prompt, tokens, labels; and what it takes.

    python -m benchmarks.quantized [--checkpoint DIR --sam2 PATH --config YAML] [--repeats 5]

Both are loaded into this process and take turns; each ratio is the median of its pairs.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from statistics import median

import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.labels import labels
from benchmarks.pictures import PICTURE
from benchmarks.plain import endless
from model import PerceiveAnything, Prompt, Sampling, Task
from model.compute.quantized import EightBitLinear
from model.errors import ModelError
from model.values.task import instruction

TASKS = (Task.RECOGNIZE, Task.BRIEF)


def steps(pam: PerceiveAnything, tokens: int) -> dict[str, Callable[[], object]]:
    """What is timed, of one region."""
    (region,) = pam.segment(pam.encode(Image.open(PICTURE).convert("RGB")), [Prompt(box=(170, 10, 410, 310))])
    reading, names = pam.read([region]), labels(100)
    sampling = Sampling(max_new_tokens=tokens, repetition_penalty=1.0)
    asked = [instruction(task) for task in TASKS]

    def texts() -> None:
        with endless(pam.language):
            pam.language.answer(reading.prefix, asked, sampling)

    return {
        "prompt": lambda: pam.read([region]),
        f"{tokens} tokens of {len(TASKS)} texts": texts,
        f"{len(names)} labels": lambda: pam.score(reading, names),
    }


def megabytes(pam: PerceiveAnything) -> float:
    """Of the language model's weights."""
    model = pam.language.model
    whole = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    return (whole + sum(m.weight_bytes for m in model.modules() if isinstance(m, EightBitLinear))) / 1e6


def compare(
    first: Callable[[], object], second: Callable[[], object], repeats: int, clock: Callable[[], float]
) -> tuple[float, float, float]:
    """Median seconds of both, and the median of first / second; one run of each before does not count."""

    def seconds(work: Callable[[], object]) -> float:
        begin = clock()
        work()
        return clock() - begin

    first(), second()
    pairs = [(seconds(first), seconds(second)) for _ in range(repeats)]
    return median(a for a, _ in pairs), median(b for _, b in pairs), median(a / b for a, b in pairs)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quantized", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--checkpoint", default="tiny", help="name or folder")
    parser.add_argument("--sam2", help="SAM 2 weights, where the folder has none")
    parser.add_argument("--config", help="their Hydra config")
    parser.add_argument("--new-tokens", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cpu-time", action="store_true", help="seconds of the processor instead of the clock")
    parser.add_argument("--json", action="store_true", help="print one JSON object, the table on stderr")
    options = parser.parse_args(arguments)
    try:
        full, eight = (
            PerceiveAnything.from_pretrained(options.checkpoint, options.sam2, options.config, "cpu", quantize=kind)
            for kind in ("none", "int8")
        )
    except ModelError as error:
        raise SystemExit(f"error: {error}") from None
    clock = time.process_time if options.cpu_time else time.perf_counter
    table = Table("", "float32, s", "int8, s", "ratio", title=f"{full.version}, {torch.get_num_threads()} threads")
    report: dict[str, object] = {}
    others = steps(eight, options.new_tokens)
    for name, work in steps(full, options.new_tokens).items():
        slow, quick, ratio = compare(work, others[name], options.repeats, clock)
        report[name] = {"float32_s": slow, "int8_s": quick, "ratio": ratio}
        table.add_row(name, f"{slow:.3f}", f"{quick:.3f}", f"{ratio:.2f}")
    console = Console(stderr=options.json)
    console.print(table)
    report["megabytes"] = sizes = {"float32": megabytes(full), "int8": megabytes(eight)}
    console.print(f"weights of the language model: {sizes['float32']:.1f} MB, in eight bits {sizes['int8']:.1f} MB")
    if options.json:
        print(json.dumps(report))


if __name__ == "__main__":
    main()
