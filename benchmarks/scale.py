"""How the cost grows: regions a second against regions of a picture, labels of a config, the picture's size, workers.

    python -m benchmarks.scale [--checkpoint tiny] [--workers 1,2]

Each region is asked for its class, a brief caption and one of the labels. The first three run in this process, from a
picture that is not encoded; the last one through HTTP, sixteen annotators clicking at once.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import psutil
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from backend.worker.embedding_cache import Addresses, EmbeddingCache
from benchmarks.charts import panels
from benchmarks.labels import labels
from benchmarks.pictures import PICTURE
from benchmarks.serve import ROOT, annotate
from demo.__main__ import pictures_on_http, stack
from model import Embedding, PerceiveAnything, Prompt, Sampling, Task


def perceive(pam: PerceiveAnything, picture: Image.Image, regions: int, names: Sequence[str]) -> None:
    """Everything that a job does for so many clicks."""
    rng = np.random.default_rng(0)
    spots = rng.uniform(0.1, 0.9, (regions, 2)) * picture.size
    found = pam.segment(pam.encode(picture), [Prompt(points=[(float(x), float(y), 1)]) for x, y in spots])
    reading = pam.read(found)
    pam.describe(reading, [Task.RECOGNIZE, Task.BRIEF], sampling=Sampling(max_new_tokens=24))
    if names:
        pam.score(reading, names)


def seconds(work: Callable[[], None], times: int) -> float:
    """Median of some runs after one that does not count."""
    work()
    taken = []
    for _ in range(times):
        begin = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begin)
    return median(taken)


def memory_over(pictures: int) -> dict[str, float]:
    """Resident memory in MB after so many pictures went through a cache of embeddings, with embeddings of 1 MB."""
    cache, addresses = EmbeddingCache(limit_bytes=64 << 20), Addresses(believed_s=300)
    found: dict[str, float] = {}
    for number in range(pictures + 1):
        if number in (0, 100, 1000) or number == pictures or number % max(1, pictures // 4) == 0:
            found[str(number)] = psutil.Process().memory_info().rss / 1e6
        features = torch.full((1, 64, 64, 64), float(number))
        addresses.put(f"http://host/{number}.jpg", str(number))
        cache.put(str(number), Embedding(640, 480, features, (torch.zeros(0), torch.zeros(0))))
    return found


def clicks_per_second(console: Console, workers: int, annotators: int = 16, clicks: int = 12) -> float:
    """Through the whole stack with so many workers."""
    config = (ROOT / "label_config.xml").read_text(encoding="utf-8")
    picture = Image.open(PICTURE).convert("RGB")
    os.environ["PALLAS_WORKERS"] = str(workers)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(annotators):
            pixels = np.roll(np.asarray(picture), 20 * number, axis=1)
            Image.fromarray(pixels).save(Path(folder) / f"{number}.jpg")
        with stack(console, Path(folder) / "log") as url, pictures_on_http(Path(folder)) as host:
            begin = time.perf_counter()
            rows = annotate(url, config, host, picture.size, annotators, clicks)
            return (len(rows) + annotators) / (time.perf_counter() - begin)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one table for each thing that grows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", default="tiny", help="name or folder")
    parser.add_argument("--workers", default="1,2", help="numbers of workers; empty leaves this part out")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--pictures", type=int, default=10_000, help="that a worker sees one after the other")
    parser.add_argument("--json", action="store_true", help="print one JSON object, the tables on stderr")
    parser.add_argument("--out", type=Path, help="folder for scale.json and scale.png")
    options = parser.parse_args(arguments)
    console = Console(stderr=options.json)
    pam = PerceiveAnything.from_pretrained(options.checkpoint, device=options.device)
    picture = Image.open(PICTURE).convert("RGB")
    cases: dict[str, list[tuple[str, int, int, Image.Image]]] = {
        "regions of a picture": [(str(n), n, 5, picture) for n in (1, 2, 4, 8, 16, 32)],
        "labels of a config": [(str(n), 4, n, picture) for n in (0, 10, 100, 300, 1000)],
        "size of the picture": [
            (f"{w}×{h}", 4, 5, picture.resize((w, h))) for w, h in ((320, 240), (1280, 720), (1920, 1080), (3840, 2160))
        ],
    }
    report: dict[str, dict[str, float]] = {}
    for title, rows in cases.items():
        table = Table(title, "seconds", "regions a second")
        report[title] = {}
        for name, regions, count, image in rows:
            names = labels(count) if count else []
            taken = seconds(lambda: perceive(pam, image, regions, names), options.repeats)  # noqa: B023
            report[title][name] = regions / taken
            table.add_row(name, f"{taken:.3f}", f"{regions / taken:.1f}")
        console.print(table)
    report["pictures"] = memory_over(options.pictures)
    table = Table("pictures seen", "resident, MB")
    for name, megabytes in report["pictures"].items():
        table.add_row(name, f"{megabytes:.0f}")
    console.print(table)
    if options.workers:
        table = Table("workers", "clicks a second, 16 annotators")
        report["workers"] = {}
        for workers in map(int, options.workers.split(",")):
            rate = clicks_per_second(console, workers)
            report["workers"][str(workers)] = rate
            table.add_row(str(workers), f"{rate:.1f}")
        console.print(table)
    if options.json:
        print(json.dumps(report))
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "scale.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        below = dict.fromkeys(report, "regions a second") | {
            "workers": "clicks a second",
            "pictures": "MB resident",
        }
        panels(report, options.out / "scale.png", below)


if __name__ == "__main__":
    main()
