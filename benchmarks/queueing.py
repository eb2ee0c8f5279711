"""How many annotators and tasks an hour so many workers carry: a small simulation of the queues, held to a real run.

    python -m benchmarks.queueing [--workers 1,2,8] [--annotators 1,4,16,64] [--click 0.11 --encode 0.05 --job 0.07]
    python -m benchmarks.queueing --real [--workers 2] [--annotators 1,4,8] [--seconds 40]
    python -m benchmarks.queueing --beside --workers 2 --annotators 50 --think 10 --seconds 120

Simulated are annotators who think, click and wait for the answer, and move on to a new picture after some clicks;
workers with the product's order of queues (clicks sent to one worker, clicks, batch, bulk), its choice of the warm
worker and its patience; and bulk jobs that never run out. A worker takes seconds for a click on a picture that it
holds, more for one that it must encode, and for a step of bulk jobs. `--real` measures these: it starts the whole stack
with so many workers, a stand-in for Label Studio, annotators as threads and a bulk job, and prints what it measured,
and beside it the simulation with the measured seconds. `--beside` measures the same annotators twice, without a bulk
job and beside one, and says whether the p95 of a click beside it is at most twice the p95 without it and one step of
bulk jobs; the exit code says so too.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import random
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import requests
from PIL import Image
from rich.console import Console
from rich.table import Table

from backend.bulk.ledger import Ledger, names
from backend.queueing import heartbeat
from backend.queueing.affinity import clicks as clicks_served
from backend.queueing.affinity import worth_waiting
from backend.queueing.connection import connect
from benchmarks.bulk import click, wait_for_workers
from benchmarks.faults import ROOT, bulk, fill, serving
from benchmarks.stand_in import run_stand_in

CACHE = 24
"""Pictures that a worker holds: 512 MiB of embeddings of 21 MB (SAM 2.1 at 1024 × 1024, float32)."""


@dataclass(frozen=True)
class Load:
    """What goes on.

    Attributes:
        workers, annotators: how many.
        click_s: a worker's time for a click on a picture that it holds.
        encode_s: what it takes longer for another picture.
        job_s: a worker's time for a bulk job; None where there are none.
        step: bulk jobs that it takes at once.
        around_s: of a click, outside the worker.
        think_s: mean pause of an annotator between an answer and the next click.
        clicks: of an annotator on one picture.
    """

    workers: int
    annotators: int
    click_s: float
    encode_s: float
    job_s: float | None = None
    step: int = 1
    around_s: float = 0.03
    think_s: float = 3.0
    clicks: int = 5


@dataclass(eq=False)
class _Click:
    picture: int
    annotator: int
    asked: float


@dataclass(eq=False)
class _Worker:
    held: deque[int] = field(default_factory=lambda: deque(maxlen=CACHE))
    own: deque[_Click] = field(default_factory=deque)
    busy: bool = False
    busy_s: float = 0.0  # a running mean, as a worker says it of itself


class Simulation:
    """One hour or so of a load; `took` are the clicks' seconds, `done` the bulk jobs."""

    def __init__(self, load: Load, seed: int = 0) -> None:
        self._load = load
        self._rng = random.Random(seed)
        self._now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._pictures = itertools.count()
        self._workers = [_Worker() for _ in range(load.workers)]
        self._shared: deque[_Click] = deque()
        self._ahead: deque[int] = deque()
        self._at = [(-1, 0)] * load.annotators  # each one's picture, and how many clicks are left on it
        self.took: list[float] = []
        self.done = 0

    def run(self, seconds: float) -> None:
        for annotator in range(self._load.annotators):
            self._open(annotator)
            self._later(self._think(), lambda annotator=annotator: self._ask(annotator))  # type: ignore[misc]
        self._wake()
        while self._events and self._now < seconds:
            self._now, _, happen = heapq.heappop(self._events)
            happen()
            self._wake()

    def _later(self, delay: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self._now + delay, next(self._order), happen))

    def _think(self) -> float:
        return self._rng.expovariate(1 / self._load.think_s)

    def _open(self, annotator: int) -> None:
        """A new picture, which is encoded ahead."""
        picture = next(self._pictures)
        self._at[annotator] = (picture, self._load.clicks)
        self._ahead.append(picture)

    def _ask(self, annotator: int) -> None:
        click = _Click(self._at[annotator][0], annotator, self._now)
        warm = next((worker for worker in self._workers if click.picture in worker.held), None)
        load, count = self._load, len(self._workers)
        all_busy = all(worker.busy for worker in self._workers)
        if count > 1 and warm and (not warm.busy or (all_busy and worth_waiting(count, warm.busy_s, load.encode_s))):
            warm.own.append(click)
            self._later(load.encode_s, lambda: self._lose_patience(warm, click))
        else:
            self._shared.append(click)

    def _lose_patience(self, worker: _Worker, click: _Click) -> None:
        if click in worker.own:
            worker.own.remove(click)
            self._shared.appendleft(click)

    def _wake(self) -> None:
        for worker in self._workers:
            if not worker.busy:
                self._begin(worker)

    def _begin(self, worker: _Worker) -> None:
        """The next thing that a worker does, in the order of its queues."""
        load = self._load
        worker.busy = True
        if worker.own or self._shared:
            click = worker.own.popleft() if worker.own else self._shared.popleft()
            cold = click.picture not in worker.held
            self._work(worker, load.click_s + cold * load.encode_s, lambda: self._answer(worker, click))
        elif self._ahead:
            picture = self._ahead.popleft()
            self._work(worker, load.encode_s, lambda: self._hold(worker, picture))
        elif load.job_s is not None:
            self._work(worker, load.step * load.job_s, lambda: self._step(worker))
        else:
            worker.busy = False

    def _work(self, worker: _Worker, seconds: float, done: Callable[[], None]) -> None:
        worker.busy_s = seconds if worker.busy_s == 0 else 0.8 * worker.busy_s + 0.2 * seconds
        self._later(seconds, done)

    def _answer(self, worker: _Worker, click: _Click) -> None:
        self._hold(worker, click.picture)
        self.took.append(self._now - click.asked + self._load.around_s)
        picture, left = self._at[click.annotator]
        self._at[click.annotator] = (picture, left - 1)
        if left <= 1:
            self._open(click.annotator)
        self._later(self._load.around_s + self._think(), lambda: self._ask(click.annotator))

    def _hold(self, worker: _Worker, picture: int) -> None:
        worker.busy = False
        if picture in worker.held:
            worker.held.remove(picture)
        worker.held.append(picture)

    def _step(self, worker: _Worker) -> None:
        worker.busy = False
        self.done += self._load.step


def simulate(load: Load, seconds: float = 3600.0) -> tuple[list[float], float]:
    """Seconds that clicks took, and bulk jobs a second."""
    simulation = Simulation(load)
    simulation.run(seconds)
    return simulation.took, simulation.done / seconds


@dataclass(frozen=True)
class Real:
    """What a real run measured: the clicks' seconds, bulk jobs a second, and the seconds that the simulation needs."""

    took: list[float]
    jobs_per_s: float
    click_s: float
    encode_s: float
    job_s: float
    around_s: float
    step: int


def measure(
    workers: int,
    annotators: int,
    seconds: float,
    think_s: float,
    clicks: int,
    checkpoint: str,
    idle: list[float] | None = None,
) -> Real:
    """The whole stack with so many workers and annotators, beside a bulk job.

    With `idle`, which is filled with seconds of clicks, the same annotators have it to themselves before.
    """
    config = (ROOT / "label_config.xml").read_text(encoding="utf-8")
    rows: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as name, run_stand_in(config, Path(name)) as label_studio:
        folder = Path(name)
        pixels = np.asarray(Image.open(ROOT / "demo" / "pictures" / "coffee.jpg").convert("RGB"))
        for path in (ROOT / "demo" / "pictures").glob("*.jpg"):
            (folder / path.name).write_bytes(path.read_bytes())
        own = ("--workers", str(workers), "--model", checkpoint)
        state = folder / "state"
        state.mkdir()
        with serving(state, label_studio, *own) as settings:
            wait_for_workers(settings, workers)
            url = f"http://127.0.0.1:{settings.port}"
            until = 0.0

            def annotate(number: int, first: int, rows: list[dict[str, float]]) -> None:
                rng = random.Random(number)
                for picture in itertools.count(first):
                    file = f"{number}-{picture}.jpg"
                    Image.fromarray(np.roll(pixels, 7 * number + 91 * picture, axis=1)).save(folder / file)
                    # as Label Studio does when the task is opened
                    requests.post(f"{url}/predict", json=opened(f"{label_studio.url}/data/upload/1/{file}", config))
                    for _ in range(clicks):
                        time.sleep(rng.expovariate(1 / think_s))
                        if time.monotonic() > until:
                            return
                        rows.append(click(url, f"{label_studio.url}/data/upload/1/{file}", config, rng))

            def all_annotate(first: int, rows: list[dict[str, float]]) -> None:
                nonlocal until
                until = time.monotonic() + seconds
                _at_once(annotators, lambda number: annotate(number, first, rows))

            if idle is not None:
                alone_rows: list[dict[str, float]] = []
                all_annotate(1_000_000, alone_rows)
                idle += [row["whole"] for row in alone_rows]
            fill(label_studio, 20_000, random.Random(0))
            process = bulk(settings, "--project", "1", log=folder / "bulk.log")
            while len(label_studio.predictions) < 20:
                time.sleep(0.1)
            before, begin = len(label_studio.predictions), time.monotonic()
            all_annotate(0, rows)
            rate = (len(label_studio.predictions) - before) / (time.monotonic() - begin)
            process.terminate()
            process.wait(60)
            client = connect(settings)
            fields = Ledger(client, names(client)[0]).fields()
            alive = heartbeat.everybody(client)
            alone = clicks_served(client)
            jobs, steps = (sum(worker.stats[what] for worker in alive) - alone for what in ("jobs", "steps"))
    model = ("encode", "decode", "prefill", "generate")
    warm = [sum(row.get(stage, 0) for stage in ("fetch", *model[1:])) for row in rows]
    cold = [row["encode"] for row in rows if row.get("encode", 0) > 0]
    around = [row["whole"] - row["queue"] - sum(row.get(s, 0) for s in ("fetch", *model)) for row in rows]
    job = sum(float(fields.get(f"seconds {stage}", 0)) for stage in ("fetch", *model)) / max(1, int(fields["done"]))
    return Real(
        took=[row["whole"] for row in rows],
        jobs_per_s=rate,
        click_s=float(np.mean(warm)),
        encode_s=float(np.mean(cold)) if cold else 0.0,
        job_s=job,
        around_s=float(np.median(around)),
        step=max(1, round(jobs / max(1, steps))),
    )


def _at_once(count: int, work: Callable[[int], None]) -> None:
    """The same from so many threads, each with its number."""
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def beside(workers: int, annotators: int, options: argparse.Namespace, console: Console) -> bool:
    """Measure with and without a bulk job, print both; whether clicks wait for at most one step of it."""
    idle: list[float] = []
    real = measure(workers, annotators, options.seconds, options.think, options.per_picture, options.checkpoint, idle)
    step_s = real.job_s * real.step
    alone, busy = (float(np.percentile(took, 95)) for took in (idle, real.took))
    limit = 2 * alone + step_s
    table = Table("workers", "annotators", "", "clicks", "p50, ms", "p95, ms")
    for name, took in (("alone", idle), ("beside bulk", real.took)):
        p50, p95 = np.percentile(took, [50, 95]) * 1000
        table.add_row(str(workers), str(annotators), name, str(len(took)), f"{p50:.0f}", f"{p95:.0f}")
    console.print(table)
    console.print(
        f"a step of bulk jobs: {real.step} of {1000 * real.job_s:.0f} ms; "
        f"2 × {1000 * alone:.0f} + {1000 * step_s:.0f} = {1000 * limit:.0f} ms "
        f"{'≥' if busy <= limit else '<'} {1000 * busy:.0f} ms; "
        f"{3600 * real.jobs_per_s:,.0f} bulk tasks an hour",
        highlight=False,
        soft_wrap=True,
    )
    return busy <= limit


def opened(address: str, config: str) -> dict[str, object]:
    """The request of a task that is opened."""
    return {"tasks": [{"id": 1, "data": {"image": address}}], "label_config": config, "params": {"context": None}}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table; the exit code is 0 unless `--beside` finds clicks too slow."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.queueing", description=__doc__.split("\n")[0])
    parser.add_argument("--real", action="store_true", help="measure, and simulate the same")
    parser.add_argument("--beside", action="store_true", help="measure with and without a bulk job, and compare")
    parser.add_argument("--workers", default="1,2,8")
    parser.add_argument("--annotators", default="1,4,16,64")
    parser.add_argument("--click", type=float, default=0.08, help="seconds of a worker for a click")
    parser.add_argument("--encode", type=float, default=0.04, help="seconds to encode a picture")
    parser.add_argument("--job", type=float, default=0.07, help="seconds of a worker for a bulk job; 0: none")
    parser.add_argument("--step", type=int, default=1, help="bulk jobs that a worker takes at once")
    parser.add_argument("--think", type=float, default=3.0, help="seconds between an answer and the next click")
    parser.add_argument("--per-picture", type=int, default=5, help="clicks on one picture")
    parser.add_argument("--seconds", type=float, default=40, help="of a real run")
    parser.add_argument("--checkpoint", default="tiny", help="name or folder, for a real run")
    options = parser.parse_args(arguments)
    console = Console()
    table = Table("workers", "annotators", "", "clicks", "p50, ms", "p95, ms", "bulk tasks an hour")
    good = True
    for workers in map(int, options.workers.split(",")):
        for annotators in map(int, options.annotators.split(",")):
            load = Load(workers, annotators, options.click, options.encode, options.job or None, options.step)
            if options.beside:
                good = beside(workers, annotators, options, console) and good
                continue
            load = _with(load, think_s=options.think, clicks=options.per_picture)
            if options.real:
                real = measure(
                    workers, annotators, options.seconds, options.think, options.per_picture, options.checkpoint
                )
                _row(table, load, "measured", real.took, real.jobs_per_s)
                load = _with(
                    load,
                    click_s=real.click_s,
                    encode_s=real.encode_s,
                    job_s=real.job_s,
                    around_s=real.around_s,
                    step=real.step,
                )
            _row(table, load, "simulated", *simulate(load))
    if not options.beside:
        console.print(table)
    return int(not good)


def _with(load: Load, **changes: float | int) -> Load:
    return Load(**(vars(load) | changes))


def _row(table: Table, load: Load, name: str, took: list[float], jobs_per_s: float) -> None:
    p50, p95 = np.percentile(took, [50, 95]) * 1000
    hour = f"{3600 * jobs_per_s:,.0f}"
    table.add_row(str(load.workers), str(load.annotators), name, str(len(took)), f"{p50:.0f}", f"{p95:.0f}", hour)


if __name__ == "__main__":
    sys.exit(main())
