"""How soon `/live` and `/health` answer while two hundred clicks wait, and what happens to a click too many.

    python -m benchmarks.overload [--clicks 200] [--seconds 10]

A real front and Redis; in place of a worker a sign of life that takes no job, so that every click waits.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import redis
import requests
from rich.console import Console
from rich.table import Table

from backend.job import VERSION
from backend.queueing.connection import connect
from backend.queueing.heartbeat import WorkerStatus
from backend.queueing.queues import INTERACTIVE, make_queue
from backend.run.child import serving
from backend.settings import Settings
from benchmarks.faults import ROOT
from demo.client import Ask

CONFIG = (ROOT / "label_config.xml").read_text(encoding="utf-8")
PAGES = ("/live", "/health")
PATIENCE_S = 60.0


def body() -> dict[str, Any]:
    """A click."""
    context = Ask("", "", ((100.0, 100.0, True),)).context(640, 480)
    task = {"id": 1, "data": {"image": "http://192.0.2.1/x.jpg"}}
    return {"tasks": [task], "project": "1.1", "label_config": CONFIG, "params": {"context": {"result": context}}}


def pose_as_worker(client: redis.Redis) -> None:
    """A sign of life of a worker that never takes a job."""
    worker = WorkerStatus("busy", "ready", "tiny", "tiny@0", payload=VERSION)
    client.set(f"pallas:worker:{worker.name}", json.dumps(asdict(worker)), ex=3600)
    client.sadd("pallas:workers", worker.name)


@contextlib.contextmanager
def crowd(url: str, client: redis.Redis, clicks: int) -> Iterator[Counter[int]]:
    """So many clicks more that wait; the codes of those that were answered all the same."""
    codes: Counter[int] = Counter()
    queue = make_queue(INTERACTIVE, client)
    before = queue.count

    def click() -> None:
        # until it ends
        with contextlib.suppress(requests.RequestException):
            codes[requests.post(f"{url}/predict", json=body(), timeout=600).status_code] += 1

    for _ in range(clicks):
        threading.Thread(target=click, daemon=True).start()
    until = time.monotonic() + PATIENCE_S
    while queue.count - before + codes.total() < clicks:
        if time.monotonic() > until:
            raise TimeoutError(f"{queue.count} clicks wait after {PATIENCE_S:.0f} s")
        time.sleep(0.05)
    yield codes


def look(url: str, seconds: float) -> dict[str, list[float]]:
    """Seconds that each page takes, asked one after another."""
    taken: dict[str, list[float]] = {page: [] for page in PAGES}
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for page in PAGES:
            begin = time.perf_counter()
            requests.get(url + page, timeout=PATIENCE_S).raise_for_status()
            taken[page].append(time.perf_counter() - begin)
        time.sleep(0.02)
    return taken


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure with nobody, and with the crowd."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overload", description=__doc__.split("\n")[0])
    parser.add_argument("--clicks", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=10)
    options = parser.parse_args(arguments)
    table = Table("while", "page", "median, ms", "p99, ms", "most, ms")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        own = {"PALLAS_STATE_DIR": str(folder / "state")}
        with serving(folder / "log", "--workers", "0", environment=own) as child:
            client = connect(Settings(state_dir=folder / "state"))
            pose_as_worker(client)
            found = {"nobody waits": look(child.url, options.seconds)}
            with crowd(child.url, client, options.clicks):
                waiting = make_queue(INTERACTIVE, client).count
                found[f"{waiting} clicks wait"] = look(child.url, options.seconds)
                memory = psutil.Process(child.process.pid).memory_info().rss / 1e6
    for state, pages in found.items():
        for page, taken in pages.items():
            median, late, most = 1000 * np.quantile(taken, [0.5, 0.99, 1.0])
            table.add_row(state, page, f"{median:.1f}", f"{late:.1f}", f"{most:.1f}")
    console = Console(width=100)
    console.print(table)
    console.print(f"the front takes {memory:.0f} MB then")


if __name__ == "__main__":
    main()
