"""Milliseconds of a click that are not the model's: the whole stack through HTTP, with a model that answers at once.

    python -m benchmarks.around [--sizes 1920x1080,4000x3000] [--clicks 40]

Front, queue and worker are real; the worker's model gives the same wavy mask of the picture's size and the same words
to every prompt. Beside the whole click stand the stages that the front tells (`Server-Timing`), the processor's time
that a click takes of each process, which hardly depends on what else the machine does, and how long the mask alone
takes on its way: packed by the worker, written for Label Studio by the front.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.pictures import PICTURE
from benchmarks.serve import click
from demo.__main__ import pictures_on_http

ROOT = Path(__file__).parent.parent
_AIMS_MS = {2_073_600: 12, 12_000_000: 40}
_READY_S = 120


def wavy(width: int, height: int) -> np.ndarray:
    """A mask (H, W) of an outline as uneven as a tree's: some thousand runs."""
    rows, columns = np.mgrid[:height, :width]
    angle = np.arctan2(rows - height / 2, columns - width / 2)
    reach = np.hypot((rows - height / 2) / height, (columns - width / 2) / width)
    mask: np.ndarray = reach < 0.33 + 0.02 * np.sin(37 * angle) + 0.01 * np.sin(211 * angle)
    return mask


def stand_in() -> Any:
    """The bundled model, whose verbs have their answers ready."""
    from model import PerceiveAnything, Prompt, Region, Task

    pam: Any = PerceiveAnything.from_pretrained("tiny", device="cpu")
    small = pam.encode(Image.new("RGB", (64, 64)))
    (like,) = pam.segment(small, [Prompt(points=[(32, 32, 1)])])
    (said,) = pam.describe([like], [Task.BRIEF])
    masks: dict[tuple[int, int], np.ndarray] = {}

    def encode_all(images: Sequence[Image.Image], **_: Any) -> list[Any]:
        return [replace(small, width=image.width, height=image.height) for image in images]

    def segment(embeddings: Sequence[Any], prompts: Sequence[Any], *_: Any) -> list[Region]:
        found = []
        for embedding, prompt in zip(embeddings, prompts, strict=True):
            size = embedding.width, embedding.height
            if size not in masks:
                masks[size] = wavy(*size)
            found.append(replace(like, mask=masks[size], prompt=prompt, object_score=5.0))
        return found

    def describing(reading: Any, tasks: Sequence[Any], *_: Any) -> Iterator[None]:
        return [dict.fromkeys(tasks, said[Task.BRIEF]) for _ in reading.regions]  # type: ignore[return-value]
        yield

    def score(reading: Any, names: Sequence[str], **_: Any) -> np.ndarray:
        return np.zeros((len(reading.regions), len(names)), np.float32)

    def readings(regions: Sequence[Region]) -> Iterator[Any]:
        yield SimpleNamespace(regions=regions, __len__=lambda: len(regions))

    for verb in (encode_all, segment, describing, score, readings):
        setattr(pam, verb.__name__, verb)
    return pam


def _work() -> int:
    """The worker's process."""
    from backend.settings import Settings
    from backend.worker import engine
    from backend.worker.worker import run_worker
    from model import PerceiveAnything

    pam = stand_in()
    PerceiveAnything.from_pretrained = classmethod(lambda *_, **__: pam)  # type: ignore[method-assign,assignment]
    setattr(engine.Engine, "warm_up", lambda _: None)  # noqa: B010
    return run_worker(Settings())


def _serve() -> int:
    """The front's process, and Redis."""
    from backend.run import embedded_redis
    from backend.run.serve import front_running, stop_signal
    from backend.settings import Settings

    settings = Settings(port=0)
    with stop_signal() as stop, embedded_redis.running(settings), front_running(settings) as url:
        print(url, flush=True)
        stop.wait()
    return 0


@contextlib.contextmanager
def stack() -> Iterator[tuple[str, dict[str, psutil.Process]]]:
    """Both processes and Redis, until the block ends; gives the front's URL, and them by their names."""
    with tempfile.TemporaryDirectory(prefix="pallas-around-", ignore_cleanup_errors=True) as state:
        own = os.environ | {"PALLAS_STATE_DIR": state, "PALLAS_ALLOWED_HOSTS": "127.0.0.1"}
        own.pop("REDIS_URL", None)

        def start(part: str) -> subprocess.Popen[str]:
            command = [sys.executable, "-m", "benchmarks.around", "--part", part]
            return subprocess.Popen(command, env=own, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

        front = start("front")
        worker: subprocess.Popen[str] | None = None
        try:
            assert front.stdout is not None
            url = front.stdout.readline().strip()
            if not url:
                raise SystemExit("the front did not start")
            worker = start("worker")
            _wait_for_worker(url)
            own_redis = psutil.Process(front.pid).children(recursive=True)[0]
            processes = {"front": psutil.Process(front.pid), "worker": psutil.Process(worker.pid), "Redis": own_redis}
            yield url, processes
        finally:
            for process in (worker, front):
                if process is not None:
                    process.terminate()
                    process.wait(30)


def _wait_for_worker(url: str) -> None:
    import requests

    end = time.monotonic() + _READY_S
    while not requests.get(url, headers={"Accept": "application/json"}, timeout=10).json()["workers"]["ready"]:
        if time.monotonic() > end:
            raise SystemExit("no worker was ready")
        time.sleep(0.2)


def processor_s(processes: dict[str, psutil.Process]) -> dict[str, float]:
    """Seconds of the processor that each has taken so far."""
    return {name: sum(process.cpu_times()[:2]) for name, process in processes.items()}


def mask_ms(width: int, height: int) -> dict[str, float]:
    """Of a mask of that size: packing it in the worker, and writing it for a brush in the front."""
    from backend.label_studio import rle
    from model.values.mask import row_runs, to_rle

    mask = wavy(width, height)
    packed = to_rle(mask)
    return {
        "mask, worker": _ms(lambda: (to_rle(mask), np.count_nonzero(mask))),
        "mask, front": _ms(lambda: rle.encode_runs(row_runs(packed))),
    }


def _ms(work: Callable[[], object]) -> float:
    taken = []
    for _ in range(9):
        begin = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begin)
    return 1000 * median(taken)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table with a column for each size."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.around", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sizes", default="1920x1080,4000x3000")
    parser.add_argument("--clicks", type=int, default=40)
    parser.add_argument("--part", choices=("front", "worker"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.part:
        return _serve() if options.part == "front" else _work()
    sizes: list[tuple[int, int]] = [(int(w), int(h)) for w, h in (size.split("x") for size in options.sizes.split(","))]
    config = (ROOT / "label_config.xml").read_text(encoding="utf-8")
    columns: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        for number, size in enumerate(sizes):
            Image.open(PICTURE).convert("RGB").resize(size).save(Path(folder) / f"{number}.jpg", quality=90)
        with stack() as (url, processes), pictures_on_http(Path(folder)) as host:
            for number, size in enumerate(sizes):
                first = click(url, config, host, f"{number}.jpg", size, 100 * number)
                before = processor_s(processes)
                clicks = range(1, options.clicks + 1)
                rest = [click(url, config, host, f"{number}.jpg", size, 100 * number + i) for i in clicks]
                taken = {name: seconds - before[name] for name, seconds in processor_s(processes).items()}
                whole = [1000 * row["whole"] for row in rest]
                stages = [stage for stage in first if stage not in ("whole", "total")]
                columns.append(
                    {"first click (fetched, opened)": 1000 * first["whole"]}
                    | {"whole, p50": float(np.percentile(whole, 50)), "whole, p95": float(np.percentile(whole, 95))}
                    | {stage: 1000 * median(row.get(stage, 0.0) for row in rest) for stage in stages}
                    | {f"processor, {name}": 1000 * seconds / len(rest) for name, seconds in taken.items()}
                    | {"processor, all": 1000 * sum(taken.values()) / len(rest)}
                    | mask_ms(*size)
                )
    table = Table("milliseconds", *(f"{w}×{h}" for w, h in sizes))
    for name in columns[0]:
        table.add_row(name, *(f"{column.get(name, 0.0):.1f}" for column in columns))
    table.add_row("aim, whole", *(f"≤ {_AIMS_MS[w * h]}" if w * h in _AIMS_MS else "" for w, h in sizes))
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
