"""The kill test: bulk work and clicks while all parts are killed again and again; is everything answered exactly once?

    python -m benchmarks.faults [--json] [--tasks 1000] [--clicks 200] [--kills 20] [--fronts 5] [--redis 3]
        [--freezes 2] [--freeze-s 20] [--workers 2] [--seed 0] [--checkpoint tiny]

Starts the whole stack, one more front, which the clicks go to, and a stand-in for Label Studio with so many tasks,
each with a box, and a bulk job on them. At random moments a random worker is killed (SIGKILL) before, during or right
after a job; or that front; or Redis; or Redis is frozen (SIGSTOP). Who clicks does it again when no answer comes, as a
person would. Prints how many tasks were sent, have a prediction in the end (done), have none (lost), how many
predictions are too many (duplicated), and how many jobs were tried again (retried); how many clicks were answered and
had to be done again; and what is stuck: requests that got no answer at all in Label Studio's time, and what Redis
still has of work in the end.

A task that is unlucky enough to lose two workers is put on the failed list; like a person who looks at it, the test has
the list tried again in the end, and says so.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
import requests
from rich.console import Console

from backend.bulk.ledger import Ledger, names
from backend.queueing import heartbeat
from backend.queueing.connection import connect
from backend.queueing.queues import JOBS, STRICT_ORDER, running
from backend.run import child
from backend.settings import Settings
from benchmarks.stand_in import TOKEN, StandIn, run_stand_in
from demo.client import Ask

ROOT = Path(__file__).parent.parent
MOMENTS = ("before", "during", "after")
LABEL_STUDIO_S = 100
_CLICKERS = 8
_CALM_S = 90
_TOKENS = 8  # of each text, as whoever asks says: the fronts and the bulk job
_BUSY = "pallas:busy"


@dataclass(frozen=True)
class Outcome:
    """Counts of one run."""

    sent: int
    done: int
    lost: int
    duplicated: int
    retried: int
    clicks: int
    clicked_again: int
    stuck: int

    @property
    def good(self) -> bool:
        return not self.lost and not self.duplicated and not self.stuck


@dataclass(frozen=True)
class Faults:
    """How often a worker, the front that is clicked at, or Redis is killed, or Redis frozen for freeze_s seconds."""

    workers: int
    fronts: int = 0
    redis: int = 0
    freezes: int = 0
    freeze_s: float = 20

    def shuffled(self, rng: random.Random) -> list[str]:
        kinds = ["worker"] * self.workers + ["front"] * self.fronts
        kinds += ["redis"] * self.redis + ["freeze"] * self.freezes
        rng.shuffle(kinds)
        return kinds


class Front:
    """`python -m backend front` on a port of its own, started again whenever it ends, as a supervisor would."""

    def __init__(self, settings: Settings, log: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = int(probe.getsockname()[1])
        self.url = f"http://127.0.0.1:{self._port}"
        self._settings, self._log = settings, log
        self._ending = threading.Event()
        self._process = self._start()
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._thread.start()

    def kill(self) -> None:
        self._process.kill()

    def stop(self) -> None:
        self._ending.set()
        self._process.terminate()
        self._thread.join(60)

    def _start(self) -> subprocess.Popen[bytes]:
        own = self._settings.to_environment() | {"PALLAS_PORT": str(self._port), "PALLAS_SHOW_ERRORS": "false"}
        with self._log.open("ab") as out:
            return subprocess.Popen(
                [sys.executable, "-m", "backend", "front"], env=os.environ | own, stdout=out, stderr=out
            )

    def _keep(self) -> None:
        while True:
            self._process.wait()
            if self._ending.wait(0.2):
                return
            self._process = self._start()


class Clicks:
    """So many clicks, spread over the time that the tasks take; each again until it is answered."""

    def __init__(self, front: Front, label_studio: StandIn, config: str, count: int, tasks: int) -> None:
        self._front, self._label_studio, self._config = front, label_studio, config
        self.answered = self.again = self.hung = 0
        self._lock = threading.Lock()
        self._todo = iter([int(0.9 * tasks * number / count) for number in range(count)])
        self._threads = [threading.Thread(target=self._run, args=[number]) for number in range(_CLICKERS)]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        rng = random.Random(number)
        while True:
            with self._lock:
                at = next(self._todo, None)
            if at is None:
                return
            _wait(lambda at=at: len(self._label_studio.predictions) >= at, 3600)  # type: ignore[misc]
            while not self._click(rng):
                time.sleep(0.5)

    def _click(self, rng: random.Random) -> bool:
        asked = Ask("", "", ((rng.uniform(60, 500), rng.uniform(40, 340), True),))
        address = f"{self._label_studio.url}/data/upload/1/coffee.jpg"
        body = {
            "tasks": [{"id": 1, "data": {"image": address}}],
            "label_config": self._config,
            "params": {"context": {"result": asked.context(600, 400)}},
        }
        good = hung = False
        try:
            answer = requests.post(f"{self._front.url}/predict", json=body, timeout=LABEL_STUDIO_S)
            good = answer.status_code == 200 and bool(answer.json()["results"][0]["result"])
        except requests.Timeout:
            hung = True
        except (requests.RequestException, ValueError):
            pass  # the front was killed
        with self._lock:
            self.answered += good
            self.again += not good
            self.hung += hung
        return good


@contextmanager
def serving(folder: Path, label_studio: StandIn, *arguments: str, **environment: str) -> Iterator[Settings]:
    """`python -m backend serve` with its state in the folder; settings that reach its Redis."""
    own = {
        **{"PALLAS_STATE_DIR": str(folder), "PALLAS_HEARTBEAT_S": "0.5"},
        **{"LABEL_STUDIO_URL": label_studio.url, "LABEL_STUDIO_API_KEY": TOKEN, "OMP_NUM_THREADS": "1"},
        **{"PALLAS_ALLOWED_HOSTS": "127.0.0.1", "PALLAS_MAX_NEW_TOKENS": str(_TOKENS), **environment},
    }
    with child.serving(folder / "serve.log", *arguments, environment=own) as stack:
        yield Settings(
            state_dir=folder,
            label_studio_url=label_studio.url,
            label_studio_api_key=TOKEN,
            heartbeat_s=0.5,
            port=stack.port,
            max_new_tokens=_TOKENS,
        )


def bulk(settings: Settings, *arguments: str, log: Path) -> subprocess.Popen[bytes]:
    """`python -m backend bulk …` beside the stack."""
    with log.open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "backend", "bulk", *arguments],
            env=os.environ | settings.to_environment(),
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
        )


def kill_one(client: redis.Redis, moment: str, rng: random.Random) -> bool:
    """Kill a random worker at that moment of its work; False where none was there to be killed."""
    ready = [worker for worker in heartbeat.everybody(client) if worker.state == "ready"]
    if not ready:
        return False
    worker = rng.choice(ready)

    def busy() -> bool:
        return bool(client.sismember(_BUSY, worker.name))

    if moment == "before":
        _wait(lambda: not busy(), 5)
    else:
        _wait(busy, 5)
        if moment == "after":
            _wait(lambda: not busy(), 5)
        else:
            time.sleep(rng.uniform(0, 0.1))
    with suppress(ProcessLookupError):
        os.kill(worker.pid, signal.SIGKILL)
    return True


def run(
    tasks: int, clicks: int, faults: Faults, workers: int, seed: int, checkpoint: str, say: Callable[[str], None]
) -> Outcome:
    """The whole test."""
    rng = random.Random(seed)
    config = (ROOT / "label_config.xml").read_text(encoding="utf-8")
    with (
        tempfile.TemporaryDirectory() as folder,
        run_stand_in(config, ROOT / "demo" / "pictures") as label_studio,
    ):
        fill(label_studio, tasks, rng)
        options = ("--workers", str(workers), "--model", checkpoint)
        with serving(Path(folder), label_studio, *options) as settings:
            client = connect(settings)
            front = Front(settings, Path(folder) / "front.log")
            log = Path(folder) / "bulk.log"
            process = bulk(settings, "--project", "1", log=log)
            clicking = Clicks(front, label_studio, config, clicks, tasks)
            # not among the last tasks: a worker that nobody needs any more is killed in vain
            kinds = faults.shuffled(rng)
            for kind, at in zip(kinds, sorted(rng.sample(range(int(tasks * 0.9)), len(kinds))), strict=True):
                _wait(lambda at=at: len(label_studio.predictions) >= at, 600)  # type: ignore[misc]
                what = _happen(kind, client, front, faults, rng)
                say(f"{len(label_studio.predictions)} done: {what}")
            process.wait(3600)
            clicking.join()
            front.stop()
            ledger = Ledger.open(client, names(client)[0])
            failed = ledger.failures()
            if failed:
                say(f"{failed} tasks lost two workers and are on the failed list: tried again, as a person would")
                bulk(settings, "retry-failed", ledger.job, log=log).wait(600)
            counts = label_studio.counts()
            retried = int(ledger.fields().get("retried", 0)) - failed
            put_back = (Path(folder) / "serve.log").read_text().count("back into its queue")
            say(f"{put_back} jobs had been taken from the queue but not begun, and were put back")
            _wait(lambda: not left_over(client), _CALM_S)
            left = left_over(client)
            if left:
                say(f"left over: {', '.join(left)}")
            return Outcome(
                sent=tasks,
                done=sum(1 for task in label_studio.tasks if counts[task]),
                lost=sum(1 for task in label_studio.tasks if not counts[task]),
                duplicated=sum(count - 1 for count in counts.values()),
                retried=retried + put_back,
                clicks=clicking.answered,
                clicked_again=clicking.again,
                stuck=clicking.hung + len(left),
            )


def left_over(client: redis.Redis) -> list[str]:
    """What Redis has of work, though nobody asks for any: jobs that wait or run or should be found, late answers."""
    found = [f"{name} runs {job_id}" for name in STRICT_ORDER for job_id, _, _ in running(client, name)]
    waiting: Any = client.keys("rq:queue:*")
    late: Any = client.hkeys("pallas:late:task")
    found += [f"{key.decode()} holds {client.llen(key)}" for key in waiting]
    found += [f"{job_id} is not known to be over" for job_id in heartbeat.members(client, JOBS)]
    found += [f"{key.decode()} is to be delivered" for key in late]
    return found


def _happen(kind: str, client: redis.Redis, front: Front, faults: Faults, rng: random.Random) -> str:
    """One fault; what it was, in words."""
    if kind == "worker":
        moment = rng.choice(MOMENTS)
        _wait(lambda: kill_one(client, moment, rng), 120)
        return f"killed a worker {moment} a job"
    if kind == "front":
        front.kill()
        return "killed the front"
    _wait(client.ping, 120)
    pid = int(client.info("server")["process_id"])
    if kind == "redis":
        os.kill(pid, signal.SIGKILL)
        return "killed Redis"
    os.kill(pid, signal.SIGSTOP)
    time.sleep(faults.freeze_s)
    os.kill(pid, signal.SIGCONT)
    return f"froze Redis for {faults.freeze_s:g} s"


def fill(label_studio: StandIn, tasks: int, rng: random.Random) -> None:
    """So many tasks, each with a box on one of the demo's pictures."""
    pictures = sorted(path.name for path in (ROOT / "demo" / "pictures").glob("*.jpg"))
    for number in range(tasks):
        sides = {"x": rng.uniform(0, 50), "y": rng.uniform(0, 50), "width": rng.uniform(10, 50), "height": 40}
        drawn = {"id": f"box-{number}", "type": "rectangle", "from_name": "box", "to_name": "image"}
        value = {"value": sides | {"rotation": 0}}
        label_studio.add({"image": f"/data/upload/1/{pictures[number % len(pictures)]}"}, drawn | value)


def _wait(done: Callable[[], bool], seconds: float) -> bool:
    until = time.monotonic() + seconds
    while True:
        # Redis may be away, that is what this is about
        with suppress(redis.RedisError):
            if done():
                return True
        if time.monotonic() > until:
            return False
        time.sleep(0.002)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the counts; the exit code is 0 if nothing was lost, duplicated or stuck."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--clicks", type=int, default=200)
    parser.add_argument("--kills", type=int, default=20, help="of workers")
    parser.add_argument("--fronts", type=int, default=5, help="kills of the front")
    parser.add_argument("--redis", type=int, default=3, help="kills of Redis")
    parser.add_argument("--freezes", type=int, default=2, help="of Redis, by SIGSTOP")
    parser.add_argument("--freeze-s", type=float, default=20, help="seconds of each")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", default="tiny", help="name or folder")
    options = parser.parse_args(arguments)
    console = Console(stderr=options.json)
    begin = time.monotonic()
    outcome = run(
        options.tasks,
        options.clicks,
        Faults(options.kills, options.fronts, options.redis, options.freezes, options.freeze_s),
        options.workers,
        options.seed,
        options.checkpoint,
        lambda line: console.print(line, highlight=False),
    )
    if options.json:
        print(json.dumps(vars(outcome)))
    else:
        console.print(f"in {time.monotonic() - begin:.0f} s", highlight=False)
        for name, count in vars(outcome).items():
            console.print(f"{name:>13} {count}", highlight=False)
    return int(not outcome.good)


if __name__ == "__main__":
    sys.exit(main())
