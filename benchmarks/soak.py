"""Half an hour of mixed work: does anything grow that should not?

    python -m benchmarks.soak [--minutes 30] [--pace 1] [--out FOLDER]

Starts the whole stack with the bundled checkpoint, and lets clicks, batches of tasks, videos with a box to track,
`python -m backend bulk` runs over projects of (a stand-in for) Label Studio, webhooks and mistakes run side by side on
pictures and videos that always change.
Every ten seconds it notes of front, worker and Redis: resident memory, open files, connections, threads; and what is
kept on purpose: the worker's embeddings, Redis' own data. Through the second half a straight line is fitted, and its
slope told with its error. What is kept on purpose has a bound: seen beside the memory, it tells a fill from a leak.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import redis
import requests
from PIL import Image
from rich.console import Console
from rich.table import Table

from backend.queueing import heartbeat
from backend.queueing.connection import connect
from backend.settings import Settings
from benchmarks.charts import panels
from benchmarks.faults import ROOT, bulk, serving
from benchmarks.stand_in import StandIn, run_stand_in
from demo.client import Ask
from model.video.overlay import write_video
from model.video.source import Pictures

CONFIG = (ROOT / "label_config.xml").read_text(encoding="utf-8")
SIZE = (640, 480)
EVERY_S = 10.0
MINUTE_S = 60.0
WHAT = ("rss_mb", "files", "connections", "threads")
BULK_TASKS = 60
BULK_PAUSE_S = 10.0
VIDEO_SIZE = (320, 240)
FRAMES, RATE = 16, 8
VIDEO_PAUSE_S = 5.0
VIDEO_CONFIG = f"""<View><Video name="video" value="$video" frameRate="{RATE}"/>
<VideoRectangle name="box" toName="video"/>
<Labels name="label" toName="video"><Label value="object"/></Labels></View>"""
FEW = {
    # small enough to be full long before the second half
    "PALLAS_EMBEDDING_CACHE_BYTES": str(64 << 20),
    # answers are forgotten within the run, so that Redis shows whether they are
    "PALLAS_REMEMBER_DAYS": str(300 / 86_400),
}
Samples = dict[tuple[str, str], list[tuple[float, float]]]
"""By part and what: seconds since the beginning, and the value."""


class _Pictures(BaseHTTPRequestHandler):
    """A picture of its own for each number, a video under every number, and 404 for what is none."""

    video: bytes

    def do_GET(self) -> None:
        if self.path.endswith(".mp4"):
            self._send(self.video)
            return
        name = self.path.strip("/").removesuffix(".jpg")
        if not name.isdecimal():
            self.send_error(404)
            return
        rng = np.random.default_rng(int(name))
        small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        out = io.BytesIO()
        small.resize(SIZE, Image.Resampling.BICUBIC).save(out, "JPEG")
        self._send(out.getvalue())

    def _send(self, data: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def make_video() -> bytes:
    """Two seconds of a square that moves to the right."""
    frames = []
    for number in range(FRAMES):
        frame = Image.new("RGB", VIDEO_SIZE, "grey")
        frame.paste("orange", (20 + 4 * number, 80, 80 + 4 * number, 140))
        frames.append(frame)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        write_video(path, Pictures(frames, RATE), iter(enumerate(frames)))
        return path.read_bytes()


@contextmanager
def pictures() -> Iterator[str]:
    handler = type("Handler", (_Pictures,), {"video": make_video()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
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
        next: the number of the next new picture; videos: of the newest video.
        log: what bulk runs print.
        pace: what all pauses between two questions are multiplied by.
    """

    url: str
    host: str
    label_studio: StandIn
    settings: Settings
    log: Path
    pace: float = 1
    stop: threading.Event = field(default_factory=threading.Event)
    codes: Counter[tuple[str, int]] = field(default_factory=Counter)
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=2000))
    next: int = 0
    videos: int = 0

    def click(self, rng: np.random.Generator) -> None:
        # five clicks a picture on the average, then a new one
        self.next += int(rng.random() < 0.2)
        x, y = rng.uniform(0.1, 0.9, 2) * SIZE
        context = Ask("", "", ((float(x), float(y), True),)).context(*SIZE)
        begin = time.perf_counter()
        result = self._predict("click", [self._task(self.next)], context)
        self.seconds.append(time.perf_counter() - begin)
        if result:
            event = {"action": "ANNOTATION_CREATED", "annotation": {"id": 1, "result": result[0].get("result", [])}}
            self.codes["webhook", self._post("/webhook", event).status_code] += 1
        # all else waits while clicks do
        self._pause(float(rng.uniform(0.2, 0.8)))

    def sizes(self, rng: np.random.Generator) -> None:
        """Each number of regions once: the model has kernels of its own for each, and keeps them."""
        for regions in range(1, 17):
            drawn = [item for _ in range(regions) for item in _box(rng)]
            self._predict("sizes", [self._task(2_000_000 + regions + i, drawn) for i in range(2)], None)

    def batch(self, rng: np.random.Generator) -> None:
        self._predict(
            "batch", [self._task(abs(self.next - int(rng.integers(0, 40))), _box(rng)) for _ in range(3)], None
        )
        self._pause(1)

    def video(self, rng: np.random.Generator) -> None:
        """A task with a box on the first frame of a video that nobody has seen."""
        keyframe = {
            "frame": 1,
            "enabled": True,
            "rotation": 0,
            "time": 1 / RATE,
            "x": 6,
            "y": 33,
            "width": 20,
            "height": 25,
        }
        value = {"framesCount": FRAMES, "duration": FRAMES / RATE, "sequence": [keyframe], "labels": ["object"]}
        item = {"id": f"v{rng.integers(0, 10**9)}", "type": "videorectangle", "from_name": "box", "to_name": "video"}
        self.videos += 1
        drawn = [{"id": 1, "result": [item | {"value": value}]}]
        data = {"video": f"{self.host}/{self.videos}.mp4"}
        task = {"id": 3_000_000 + self.videos, "data": data, "annotations": drawn}
        found = self._predict("video", [task], None, VIDEO_CONFIG)
        tracked = bool(found and found[0]) and any(one["type"] == "videorectangle" for one in found[0]["result"])
        self.codes["video tracked" if tracked else "video without a track", 200] += 1
        self._pause(VIDEO_PAUSE_S)

    def bulk(self, rng: np.random.Generator) -> None:
        """One `python -m backend bulk` over a project whose tasks are all new."""
        state = self.label_studio
        with state.lock:
            first = max(state.tasks, default=0) + 1
            state.tasks = {
                number: self._task(1_000_000 + number, _box(rng)) | {"id": number, "drafts": []}
                for number in range(first, first + BULK_TASKS)
            }
            state.predictions = {}
        process = bulk(self.settings, "--project", "1", log=self.log)
        while process.poll() is None:
            if self.stop.wait(0.5):
                process.terminate()  # it pauses, and says how to go on
        if not self.stop.is_set():
            answered = sum(bool(mine) for mine in state.predictions.values())
            self.codes["bulk run", process.returncode] += 1
            self.codes["bulk task", 201] += answered
            self.codes["bulk task", 0] += BULK_TASKS - answered
        self._pause(BULK_PAUSE_S)

    def mistakes(self, rng: np.random.Generator) -> None:
        context = Ask("", "", ((1.0, 1.0, True),)).context(*SIZE)
        bad = [f"{self.host}/none.jpg", "data:image/png;base64,AAAA", "/etc/passwd", "http://10.0.0.1/x"]
        task = {"id": 7, "data": {"image": bad[int(rng.integers(0, len(bad)))]}}
        self._predict("mistake", [task], context)
        self.codes[
            "setup", self._post("/setup", {"schema": CONFIG + "<!-- -->" * int(rng.integers(0, 99))}).status_code
        ] += 1
        self._pause(1)

    def run(self, work: Callable[[np.random.Generator], None], seed: int) -> None:
        rng = np.random.default_rng(seed)
        while not self.stop.is_set():
            work(rng)

    def _pause(self, seconds: float) -> None:
        self.stop.wait(self.pace * seconds)

    def _task(self, picture: int, result: list[dict[str, Any]] | None = None) -> dict[str, Any]:
        drawn = [{"id": 1, "result": result}] if result else []
        return {"id": picture, "data": {"image": f"{self.host}/{picture}.jpg"}, "annotations": drawn}

    def _predict(self, kind: str, tasks: list[dict[str, Any]], context: Any, config: str = CONFIG) -> list[Any]:
        params = {"context": None if context is None else {"result": context}}
        answer = self._post("/predict", {"tasks": tasks, "label_config": config, "params": params})
        self.codes[kind, answer.status_code] += 1
        return list(answer.json().get("results", []))

    def _post(self, page: str, body: Any) -> requests.Response:
        return requests.post(self.url + page, json=body, timeout=100)


def _box(rng: np.random.Generator) -> list[dict[str, Any]]:
    x, y = (float(value) for value in rng.uniform(0, 60, 2))
    value = {"x": x, "y": y, "width": 30, "height": 30, "rotation": 0}
    where = {"from_name": "box", "to_name": "image", "type": "rectangle", "id": f"b{rng.integers(0, 10**9)}"}
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


def kept(client: redis.Redis) -> dict[str, float]:
    """What is kept on purpose, by part and what: the worker's embeddings, Redis' data and keys."""
    stats = next((worker.stats for worker in heartbeat.everybody(client) if worker.stats), {})
    memory: Any = client.info("memory")
    return {
        "embeddings_mb": stats.get("embedding_bytes", 0.0) / 1e6,
        "data_mb": memory["used_memory"] / 1e6,
        "keys": float(client.dbsize()),
    }


def kinds_of_keys(client: redis.Redis) -> dict[str, int]:
    """How many keys of each kind Redis has."""
    found: Counter[str] = Counter()
    for key in client.scan_iter(count=1000):
        parts = key.decode().split(":")
        found[":".join(parts[:2])] += 1
    return dict(found.most_common(12))


def slope(seconds: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Of a straight line, an hour, and twice its standard error; through means of a minute each, since samples that
    follow each other are alike. NaN where there are too few."""
    minutes = (seconds // MINUTE_S).astype(int)
    x = np.array([seconds[minutes == one].mean() for one in np.unique(minutes)]) / 3600
    y = np.array([values[minutes == one].mean() for one in np.unique(minutes)])
    if len(x) < 3:
        return float("nan"), float("nan")
    (rise, base), spread = np.polyfit(x, y, 1), ((x - x.mean()) ** 2).sum()
    rest = ((y - rise * x - base) ** 2).sum() / (len(x) - 2)
    return float(rise), float(2 * np.sqrt(rest / spread))


def report(console: Console, samples: Samples) -> list[dict[str, Any]]:
    """Print what was seen in the second half, and its slopes an hour."""
    table = Table("part", "what", "at half", "at the end", "most", "slope an hour")
    rows = []
    for (part, what), taken in samples.items():
        late = np.array([one for one in taken if one[0] >= taken[-1][0] / 2])
        rise, error = slope(late[:, 0], late[:, 1])
        first, last, most = (float(value) for value in (late[0, 1], late[-1, 1], late[:, 1].max()))
        rows.append(
            {"part": part, "what": what, "first": first, "last": last, "most": most, "slope": rise, "error": error}
        )
        table.add_row(part, what, f"{first:.1f}", f"{last:.1f}", f"{most:.1f}", f"{rise:+.1f} ± {error:.1f}")
    console.print(table)
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the load, sample, print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--pace", type=float, default=1, help="longer pauses between the questions: 3, three times")
    parser.add_argument("--checkpoint", default="tiny", help="name or folder")
    parser.add_argument("--out", type=Path, help="folder for soak.json and soak.png")
    options = parser.parse_args(arguments)
    console = Console(width=100)
    with (
        tempfile.TemporaryDirectory() as name,
        pictures() as host,
        run_stand_in(CONFIG) as label_studio,
        serving(folder := Path(name), label_studio, "--model", options.checkpoint, **FEW) as settings,
    ):
        (root,) = (child for child in psutil.Process().children() if "serve" in child.cmdline())
        processes, client, begin = parts(root), connect(settings), time.time()
        url = f"http://127.0.0.1:{settings.port}"
        load = Load(url, host, label_studio, settings, folder / "bulk.log", options.pace)
        works = (load.click, load.click, load.batch, load.video, load.bulk, load.mistakes)
        threads = [threading.Thread(target=load.run, args=[work, i], daemon=True) for i, work in enumerate(works)]
        load.sizes(np.random.default_rng(99))
        for thread in threads:
            thread.start()
        samples: Samples = defaultdict(list)
        while time.time() - begin < 60 * options.minutes:
            time.sleep(EVERY_S)
            at = time.time() - begin
            for part, process in processes.items():
                for what, value in zip(WHAT, look(process), strict=True):
                    samples[part, what].append((at, value))
            for what, value in kept(client).items():
                samples["worker" if what == "embeddings_mb" else "redis", what].append((at, value))
        load.stop.set()
        for thread in threads:
            thread.join(100)
        same, keys = parts(root) == processes, kinds_of_keys(client)
    rows = report(console, samples)
    counts = {f"{kind} {code}": count for (kind, code), count in sorted(load.codes.items())}
    console.print(f"{load.next} pictures clicked on; answers by kind of work and code: {counts}")
    console.print(f"keys in Redis by kind, at the end: {keys}")
    console.print(f"the newest clicks took {np.median(load.seconds):.3f} s (median); no part was started anew: {same}")
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        series = {f"{part} {what}": taken for (part, what), taken in samples.items()}
        found = {"rows": rows, "counts": counts, "keys": keys, "samples": series}
        (options.out / "soak.json").write_text(json.dumps(found) + "\n", encoding="utf-8")
        plot(samples, options.out / "soak.png")


def plot(samples: Samples, target: Path) -> None:
    """Memory by minute."""
    shown = [key for key in samples if key[1].endswith("_mb")]
    lines = {f"{part}: {what[:-3]}": {at / 60: value for at, value in samples[part, what]} for part, what in shown}
    panels(lines, target, dict.fromkeys(lines, "MB, over minutes"))


if __name__ == "__main__":
    main()
