"""Latency of clicks through HTTP, by stage, for several annotators at once; with the bundled checkpoint.

    python -m benchmarks.serve [--annotators 1,4,16] [--clicks 40] [--size 1920x1080]

Starts the whole stack (`python -m backend serve`), gives each annotator a picture of that size, and clicks. `overhead`
is the whole click as the client sees it without the model's stages (encode, decode, prefill, generate) and without
waiting in the queue for others.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import requests
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.charts import bars
from demo.__main__ import pictures_on_http, stack
from demo.client import Ask

ROOT = Path(__file__).parent.parent
MODEL = ("encode", "decode", "prefill", "generate")
STAGES = ("queue", "fetch", *MODEL, "shape")


def click(url: str, config: str, host: str, name: str, size: tuple[int, int], seed: int) -> dict[str, float]:
    """One click somewhere on a picture of so many pixels; see `timed`."""
    x, y = np.random.default_rng(seed).uniform(0.1, 0.9, 2) * size
    return timed(url, config, f"{host}/{name}", seed, (float(x), float(y)), size)


def timed(
    url: str, config: str, picture: str, task: int, point: tuple[float, float], size: tuple[int, int]
) -> dict[str, float]:
    """Seconds of one click at a point in pixels, by stage; `whole` is the client's own time."""
    context = Ask("", "", ((*point, True),)).context(*size)
    body = {
        "tasks": [{"id": task, "data": {"image": picture}}],
        "label_config": config,
        "params": {"context": {"result": context}},
    }
    begin = time.perf_counter()
    answer = requests.post(f"{url}/predict", json=body, timeout=100)
    whole = time.perf_counter() - begin
    answer.raise_for_status()
    parts = [part.strip().split(";dur=") for part in answer.headers.get("Server-Timing", "").split(",") if part]
    return {stage: float(ms) / 1000 for stage, ms in parts} | {"whole": whole}


def annotate(
    url: str, config: str, host: str, size: tuple[int, int], annotators: int, clicks: int
) -> list[dict[str, float]]:
    """All clicks of so many annotators, each on a picture of its own, the first click on it left out."""

    def work(number: int) -> list[dict[str, float]]:
        name = f"{number}.jpg"
        return [click(url, config, host, name, size, 1000 * number + i) for i in range(clicks + 1)][1:]

    with ThreadPoolExecutor(annotators) as pool:
        return [row for rows in pool.map(work, range(annotators)) for row in rows]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table for each number of annotators."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve", description=__doc__.split("\n")[0])
    parser.add_argument("--annotators", default="1,4,16")
    parser.add_argument("--clicks", type=int, default=40, help="of each annotator")
    parser.add_argument("--size", default="1920x1080")
    parser.add_argument("--json", action="store_true", help="print one JSON object, the tables on stderr")
    parser.add_argument("--out", type=Path, help="folder for serve.json and serve.png")
    options = parser.parse_args(arguments)
    console = Console(stderr=options.json)
    width, height = map(int, options.size.split("x"))
    numbers = [int(n) for n in options.annotators.split(",")]
    config = (ROOT / "label_config.xml").read_text(encoding="utf-8")
    report = {}
    with tempfile.TemporaryDirectory() as folder:
        source = Image.open(ROOT / "demo" / "pictures" / "coffee.jpg").resize((width, height))
        for number in range(max(numbers)):
            pixels = np.roll(np.asarray(source), 40 * number, axis=1)
            Image.fromarray(pixels).save(Path(folder) / f"{number}.jpg", quality=90)
        with stack(console, Path(folder) / "stack.log") as url, pictures_on_http(Path(folder)) as host:
            for annotators in numbers:
                rows = annotate(url, config, host, (width, height), annotators, options.clicks)
                overhead = [row["whole"] - row["queue"] - sum(row[s] for s in MODEL) for row in rows]
                table = Table(
                    "stage", "p50, ms", "p95, ms", title=f"{annotators} annotators, {len(rows)} clicks, {options.size}"
                )
                columns = {stage: [row[stage] for row in rows] for stage in (*STAGES, "whole")} | {"overhead": overhead}
                for stage, values in columns.items():
                    p50, p95 = np.percentile(values, [50, 95]) * 1000
                    table.add_row(stage, f"{p50:.1f}", f"{p95:.1f}")
                console.print(table)
                report[annotators] = {s: np.percentile(v, [50, 95]).tolist() for s, v in columns.items()}
    if options.json:
        print(json.dumps(report))
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "serve.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        parts = {stage: {str(n): 1000 * report[n][stage][0] for n in report} for stage in (*MODEL, "overhead")}
        bars(parts, options.out / "serve.png", "milliseconds of a click without the queue, p50, by annotators")


if __name__ == "__main__":
    main()
