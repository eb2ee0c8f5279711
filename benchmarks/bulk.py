"""Bulk jobs: tasks a second with one and with two workers, and what a click waits beside them.

    python -m benchmarks.bulk [--workers 1,2] [--tasks 120] [--clicks 40] [--checkpoint tiny]

One thread for each worker. The rate is that of predictions arriving in (a stand-in for) Label Studio, without the first
ten and the last ten. Then one annotator clicks with pauses, on an idle system and beside a bulk job.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from backend.queueing import heartbeat
from backend.queueing.connection import connect
from backend.settings import Settings
from benchmarks.faults import ROOT, bulk, fill, serving
from benchmarks.serve import timed
from benchmarks.stand_in import StandIn, run_stand_in

_EDGE = 10
PICTURE = "/data/upload/1/coffee.jpg"


def wait_for_workers(settings: Settings, count: int) -> None:
    """Until so many are ready."""
    client = connect(settings)
    while sum(worker.state == "ready" for worker in heartbeat.everybody(client)) < count:
        time.sleep(0.2)


def rate(settings: Settings, label_studio: StandIn, tasks: int, folder: Path) -> float:
    """Predictions a second of one bulk job over so many tasks."""
    label_studio.clear()
    fill(label_studio, tasks, random.Random(0))
    code = bulk(settings, "--project", "1", log=folder / "bulk.log").wait(1200)
    if code:
        raise SystemExit((folder / "bulk.log").read_text())
    at = sorted(found["at"] for mine in label_studio.predictions.values() for found in mine)[_EDGE:-_EDGE]
    return (len(at) - 1) / (at[-1] - at[0])


def click(url: str, address: str, config: str, rng: random.Random) -> dict[str, float]:
    """One click on a picture of 600 × 400; seconds by stage and as a whole."""
    return timed(url, config, address, 1, (rng.uniform(60, 540), rng.uniform(40, 360)), (600, 400))


def clicks(url: str, label_studio: StandIn, config: str, count: int) -> list[float]:
    """Whole seconds of so many clicks with pauses, after one that does not count."""
    rng = random.Random(1)
    found = []
    for _ in range(count + 1):
        found.append(click(url, label_studio.url + PICTURE, config, rng)["whole"])
        time.sleep(rng.uniform(0.1, 0.4))
    return found[1:]


def beside(settings: Settings, label_studio: StandIn, config: str, count: int, folder: Path) -> dict[str, list[float]]:
    """Clicks on an idle system, and beside a bulk job that has enough to do."""
    assert settings.port
    url = f"http://127.0.0.1:{settings.port}"
    label_studio.clear()
    found = {"idle": clicks(url, label_studio, config, count)}
    fill(label_studio, 5000, random.Random(0))
    process = bulk(settings, "--project", "1", log=folder / "bulk.log")
    while len(label_studio.predictions) < _EDGE:
        time.sleep(0.1)
    found["beside a bulk job"] = clicks(url, label_studio, config, count)
    process.terminate()
    process.wait(60)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Print two tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bulk", description=__doc__.split("\n")[0])
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--tasks", type=int, default=120)
    parser.add_argument("--clicks", type=int, default=40)
    parser.add_argument("--checkpoint", default="tiny", help="name or folder")
    parser.add_argument("--out", type=Path, help="folder for bulk.json")
    options = parser.parse_args(arguments)
    console = Console()
    config = (ROOT / "label_config.xml").read_text(encoding="utf-8")
    numbers = [int(number) for number in options.workers.split(",")]
    rates: dict[int, float] = {}
    latency: dict[int, dict[str, list[float]]] = {}
    with run_stand_in(config, ROOT / "demo" / "pictures") as label_studio:
        for number in numbers:
            with tempfile.TemporaryDirectory() as folder:
                own = ("--workers", str(number), "--model", options.checkpoint)
                with serving(Path(folder), label_studio, *own) as settings:
                    wait_for_workers(settings, number)
                    rates[number] = rate(settings, label_studio, options.tasks, Path(folder))
                    latency[number] = beside(settings, label_studio, config, options.clicks, Path(folder))
    table = Table("workers", "tasks a second", "ratio")
    for number in numbers:
        table.add_row(str(number), f"{rates[number]:.2f}", f"{rates[number] / rates[numbers[0]]:.2f}")
    console.print(table)
    table = Table("workers", "click", "p50, ms", "p95, ms")
    for number, found in latency.items():
        for name, seconds in found.items():
            p50, p95 = np.percentile(seconds, [50, 95]) * 1000
            table.add_row(str(number), name, f"{p50:.0f}", f"{p95:.0f}")
    console.print(table)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        report = {"tasks_per_second": rates, "click_seconds": latency}
        (options.out / "bulk.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
