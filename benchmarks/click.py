"""Seconds and memory of one click, where no GPU is at hand: loading, the first click on a picture, the next one.

    python -m benchmarks.click [--checkpoint DIR] [--device cpu] [--quantize none,int8] [--texts 2] [--new-tokens 24]

Each way of loading runs in a process of its own, so that its peak memory is its own. The click is a box on the demo's
photograph of a cup; texts are cut at so many tokens, so that random weights, which never end, are as quick as others:

    python -m benchmarks.weights /tmp/pam-1.5b --size 1.5b
    python -m benchmarks.click --checkpoint /tmp/pam-1.5b --quantize none,int8
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

_STAGES = ("encode", "segment", "read", "answer")


def measure(checkpoint: str, device: str, dtype: str, quantize: str, texts: int, tokens: int) -> dict[str, Any]:
    """One way, in this process."""
    import torch

    from backend.system.memory import peak_bytes
    from model import PerceiveAnything, Sampling, Task, try_model

    def load() -> PerceiveAnything:
        return PerceiveAnything.from_pretrained(checkpoint, device=device, dtype=dtype, quantize=quantize)

    tasks = (Task.RECOGNIZE, Task.BRIEF, Task.DETAILED, Task.EXPLAIN)[:texts]
    trial = try_model(load, tasks=tasks, sampling=Sampling(max_new_tokens=tokens))
    return {
        **{"model": trial.version, "device": trial.device, "dtype": trial.dtype, "quantize": quantize},
        **{"threads": torch.get_num_threads(), "load_s": trial.load_s, "peak_gb": peak_bytes() / 1e9},
        **{"device_gb": trial.device_gb, "cold_s": trial.cold, "warm_s": trial.warm},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one table, or one JSON object."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.click", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--checkpoint", default="tiny", help="name or folder")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--quantize", default="none", help="none, int8, or both with a comma")
    parser.add_argument("--texts", type=int, choices=range(1, 5), default=2, help="about the region (2)")
    parser.add_argument("--new-tokens", type=int, default=24, help="of each text (24)")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output, the table on stderr")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(given)
    if options.alone:
        how = (options.checkpoint, options.device, options.dtype, options.quantize)
        print(json.dumps(measure(*how, options.texts, options.new_tokens)))
        return
    rows = [_in_a_process([*given, "--quantize", kind, "--alone"]) for kind in options.quantize.split(",")]
    table = Table("", "load, s", "peak, GB", *(f"first: {stage}, s" for stage in _STAGES), "first click, s", "next, s")
    for row in rows:
        cells = [row["load_s"], row["peak_gb"], *(row["cold_s"][stage] for stage in _STAGES)]
        cells += [sum(row["cold_s"].values()), sum(row["warm_s"].values())]
        table.add_row(f"{row['dtype']}, {row['quantize']}", *(f"{cell:.2f}" for cell in cells))
    console = Console(stderr=options.json)
    first = rows[0]
    console.print(
        f"{first['model']}, {first['device']} ({first['threads']} threads), {options.texts} texts of "
        f"{options.new_tokens} tokens"
    )
    console.print(table)
    if options.json:
        print(json.dumps({"rows": rows, "command": ["python", "-m", "benchmarks.click", *given]}))


def _in_a_process(arguments: Sequence[str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.click", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"error: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
