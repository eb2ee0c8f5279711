"""Half an hour of mixed work: does anything grow that should not?

    python -m benchmarks.soak [--minutes 30] [--out FOLDER]

Starts the whole stack with the bundled checkpoint, and lets clicks, batches of tasks, long lists of new pictures,
webhooks and mistakes run side by side on pictures that change all the time. Every ten seconds it notes of front, worker
and Redis: resident memory, open files, connections, threads. The first third is left out (caches fill); of the
rest a straight line is fitted, and its slope is told.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import requests
from PIL import Image
from rich.console import Console
from rich.table import Table

from demo.__main__ import stack
from demo.client import Ask

CONFIG = (Path(__file__).parent.parent / "label_config.xml").read_text(encoding="utf-8")
SIZE = (640, 480)
EVERY_S = 10.0
WHAT = ("rss_mb", "files", "connections", "threads")


class _Pictures(BaseHTTPRequestHandler):
    """A picture of its own for each number, and 404 for what is none."""

    def do_GET(self) -> None:
        name = self.path.strip("/").removesuffix(".jpg")
        if not name.isdecimal():
            self.send_error(404)
            return
        rng = np.random.default_rng(int(name))
        small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        out = io.BytesIO()
        small.resize(SIZE, Image.Resampling.BICUBIC).save(out, "JPEG")
        self.send_response(200)
        self.send_header("Content-Length", str(len(out.getvalue())))
        self.end_headers()
        self.wfile.write(out.getvalue())

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def pictures() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Pictures)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


@dataclass
class Load:
    """What is asked, from as many threads as there are kinds of work.

    Attributes:
        codes: HTTP codes by kind of work.
        seconds: of the newest clicks.
        next: the number of the next new picture.
    """

    url: str
    host: str
    stop: threading.Event = field(default_factory=threading.Event)
    codes: Counter[tuple[str, int]] = field(default_factory=Counter)
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=2000))
    next: int = 0

    def click(self, rng: np.random.Generator) -> None:
        # five clicks a picture on the average, then a new one
        self.next += int(rng.random() < 0.2)
        x, y = rng.uniform(0.1, 0.9, 2) * SIZE
        context = Ask("", "", ((float(x), float(y), True),)).context(*SIZE, "object")
        begin = time.perf_counter()
        result = self._predict("click", [self._task(self.next)], context)
        self.seconds.append(time.perf_counter() - begin)
        if result:
            event = {"action": "ANNOTATION_CREATED", "annotation": {"id": 1, "result": result[0].get("result", [])}}
            self.codes["webhook", self._post("/webhook", event).status_code] += 1

    def batch(self, rng: np.random.Generator) -> None:
        self._predict("batch", [self._task(self.next - int(rng.integers(0, 40)), _box(rng)) for _ in range(3)], None)
        self.stop.wait(1)

    def long_list(self, rng: np.random.Generator) -> None:
        self._predict(
            "long list", [self._task(1_000_000 + int(rng.integers(0, 10**6)), _box(rng)) for _ in range(16)], None
        )
        self.stop.wait(5)

    def mistakes(self, rng: np.random.Generator) -> None:
        context = Ask("", "", ((1.0, 1.0, True),)).context(*SIZE, "object")
        bad = [f"{self.host}/none.jpg", "data:image/png;base64,AAAA", "/etc/passwd", "http://10.0.0.1/x"]
        task = {"id": 7, "data": {"image": bad[int(rng.integers(0, len(bad)))]}}
        self._predict("mistake", [task], context)
        self.codes[
            "setup", self._post("/setup", {"schema": CONFIG + "<!-- -->" * int(rng.integers(0, 99))}).status_code
        ] += 1
        self.stop.wait(1)

    def run(self, work: Callable[[np.random.Generator], None], seed: int) -> None:
        rng = np.random.default_rng(seed)
        while not self.stop.is_set():
            work(rng)

    def _task(self, picture: int, result: list[dict[str, Any]] | None = None) -> dict[str, Any]:
        drawn = [{"id": 1, "result": result}] if result else []
        return {"id": picture, "data": {"image": f"{self.host}/{picture}.jpg"}, "annotations": drawn}

    def _predict(self, kind: str, tasks: list[dict[str, Any]], context: Any) -> list[Any]:
        params = {"context": None if context is None else {"result": context}}
        answer = self._post("/predict", {"tasks": tasks, "label_config": CONFIG, "params": params})
        self.codes[kind, answer.status_code] += 1
        return list(answer.json().get("results", []))

    def _post(self, page: str, body: Any) -> requests.Response:
        return requests.post(self.url + page, json=body, timeout=100)


def _box(rng: np.random.Generator) -> list[dict[str, Any]]:
    x, y = (float(value) for value in rng.uniform(0, 60, 2))
    value = {"x": x, "y": y, "width": 30, "height": 30, "rotation": 0, "rectanglelabels": ["object"]}
    where = {"from_name": "box", "to_name": "image", "type": "rectanglelabels", "id": f"b{rng.integers(0, 10**9)}"}
    return [where | {"value": value, "original_width": SIZE[0], "original_height": SIZE[1]}]


def parts(root: psutil.Process) -> dict[str, psutil.Process]:
    """Front, worker and Redis of a `serve` process."""
    found = {"front": root}
    for child in root.children(recursive=True):
        name = "redis" if "redis" in child.name() else "worker" if "worker" in child.cmdline() else ""
        if name:
            found[name] = child
    return found


def look(process: psutil.Process) -> list[float]:
    with process.oneshot():
        memory, threads = process.memory_info().rss / 1e6, process.num_threads()
    return [memory, process.num_fds(), len(process.net_connections("all")), threads]


def report(console: Console, begin: float, samples: dict[str, list[tuple[float, list[float]]]]) -> list[dict[str, Any]]:
    """Print what was seen after the first third, and its slopes an hour."""
    table = Table("part", "what", "at a third", "at the end", "most", "slope an hour")
    rows = []
    for name, taken in samples.items():
        late = [(at - begin, values) for at, values in taken if at - begin >= (taken[-1][0] - begin) / 3]
        hours = np.array([at for at, _ in late]) / 3600
        for i, what in enumerate(WHAT):
            values = np.array([values[i] for _, values in late])
            slope = float(np.polyfit(hours, values, 1)[0]) if len(values) > 2 else float("nan")
            row = {
                "part": name,
                "what": what,
                "first": values[0],
                "last": values[-1],
                "most": values.max(),
                "slope": slope,
            }
            rows.append({key: value if isinstance(value, str) else float(value) for key, value in row.items()})
            table.add_row(name, what, *(f"{row[key]:.1f}" for key in ("first", "last", "most")), f"{slope:+.1f}")
    console.print(table)
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the load, sample, print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--out", type=Path, help="folder for soak.json")
    options = parser.parse_args(arguments)
    console = Console()
    # small enough to be full long before the first third is over
    os.environ["PALLAS_EMBEDDING_CACHE_BYTES"] = str(64 << 20)
    with tempfile.TemporaryDirectory() as folder, stack(console, Path(folder) / "log") as url, pictures() as host:
        (root,) = (child for child in psutil.Process().children() if "serve" in child.cmdline())
        processes, load, begin = parts(root), Load(url, host), time.time()
        works = (load.click, load.click, load.batch, load.long_list, load.mistakes)
        threads = [threading.Thread(target=load.run, args=[work, i], daemon=True) for i, work in enumerate(works)]
        for thread in threads:
            thread.start()
        samples: dict[str, list[tuple[float, list[float]]]] = {name: [] for name in processes}
        while time.time() - begin < 60 * options.minutes:
            time.sleep(EVERY_S)
            for name, process in processes.items():
                samples[name].append((time.time(), look(process)))
        load.stop.set()
        for thread in threads:
            thread.join(100)
        same = parts(root) == processes
    rows = report(console, begin, samples)
    counts = {f"{kind} {code}": count for (kind, code), count in sorted(load.codes.items())}
    console.print(f"{load.next} pictures clicked on; answers by kind of work and HTTP code: {counts}")
    console.print(f"the newest clicks took {np.median(load.seconds):.3f} s (median); no part was started anew: {same}")
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "soak.json").write_text(json.dumps({"rows": rows, "counts": counts}, indent=1))


if __name__ == "__main__":
    main()
