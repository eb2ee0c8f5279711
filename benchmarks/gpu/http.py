"""Clicks through the whole stack: front, queue, worker, for several annotators at once."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.rows import Row
from benchmarks.serve import MODEL, ROOT, annotate
from demo.__main__ import pictures_on_http, stack

WIDTH, HEIGHT = 1920, 1080
_AIMS = {(1, 50): "≤ 180", (16, 95): "≤ 700"}


def measure(bench: Bench) -> Iterator[Row]:
    """p50 and p95 of a click by the client's own clock, and what of it is not the model's; then two workers instead."""
    yield from _measured(bench, 1)
    yield from _measured(bench, 2)


def _measured(bench: Bench, workers: int) -> Iterator[Row]:
    annotators = ((1, 4, 16) if workers == 1 else (4, 16)) if bench.device.type == "cuda" else (1, 2)[workers - 1 :]
    clicks = 12 if bench.device.type == "cuda" else 2
    os.environ |= {"PALLAS_MODEL": bench.folder, "PALLAS_DEVICE": str(bench.device), "PALLAS_DTYPE": bench.dtype}
    os.environ["PALLAS_WORKERS"] = str(workers)
    several = "" if workers == 1 else f", {workers} workers on the card"
    console = Console(stderr=True, quiet=True)
    config = (ROOT / "label_config.xml").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        pixels = np.asarray(bench.sized(WIDTH, HEIGHT))
        for number in range(max(annotators)):
            Image.fromarray(np.roll(pixels, 40 * number, axis=1)).save(Path(folder) / f"{number}.jpg", quality=90)
        with stack(console, Path(folder) / "stack.log") as url, pictures_on_http(Path(folder)) as host:
            for count in annotators:
                rows = annotate(url, config, host, (WIDTH, HEIGHT), count, clicks)
                whole = np.array([row["whole"] for row in rows]) * 1000
                rest = [row["whole"] - row["queue"] - sum(row[stage] for stage in MODEL) for row in rows]
                for percent in (50, 95):
                    name = f"click through HTTP, 1080p, {count} annotators, p{percent}{several}"
                    aim = _AIMS.get((count, percent), "") if workers == 1 else ""
                    yield Row("http", name, float(np.percentile(whole, percent)), aim=aim)
                aim = "≤ 12" if count == 1 else ""
                name = f"all but queue and model, {count} annotators, p50{several}"
                yield Row("http", name, float(np.percentile(rest, 50)) * 1000, aim=aim)
