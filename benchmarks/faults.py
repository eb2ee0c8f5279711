"""The kill test: a bulk job whose workers are killed (SIGKILL) again and again; is every task answered exactly once?

    python -m benchmarks.faults [--json] [--tasks 1000] [--kills 20] [--workers 2] [--seed 0] [--checkpoint tiny]

Starts the whole stack and a stand-in for Label Studio with so many tasks, each with a box, and a bulk job on them. At
random moments a random worker is killed before, during or right after a job. Prints how many tasks were sent, have a
prediction in the end (done), have none (lost), how many predictions are too many (duplicated), and how many jobs were
tried again (retried). A task that is unlucky enough to lose two workers is put on the failed list; like a person who
looks at it, the test has the list tried again in the end, and says so.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import redis
from rich.console import Console

from backend.bulk.ledger import Ledger, names
from backend.queueing import heartbeat
from backend.queueing.connection import connect
from backend.run import child
from backend.settings import Settings
from benchmarks.stand_in import TOKEN, StandIn, run_stand_in

ROOT = Path(__file__).parent.parent
MOMENTS = ("before", "during", "after")
_BUSY = "pallas:busy"


@dataclass(frozen=True)
class Outcome:
    """Counts of one run."""

    sent: int
    done: int
    lost: int
    duplicated: int
    retried: int


@contextmanager
def serving(folder: Path, label_studio: StandIn, *arguments: str, **environment: str) -> Iterator[Settings]:
    """`python -m backend serve` with its state in the folder; settings that reach its Redis."""
    own = {
        **{"PALLAS_STATE_DIR": str(folder), "PALLAS_HEARTBEAT_S": "0.5"},
        **{"LABEL_STUDIO_URL": label_studio.url, "LABEL_STUDIO_API_KEY": TOKEN, "OMP_NUM_THREADS": "1"},
        **{"PALLAS_ALLOWED_HOSTS": "127.0.0.1", **environment},
    }
    with child.serving(folder / "serve.log", *arguments, environment=own) as stack:
        yield Settings(
            state_dir=folder,
            label_studio_url=label_studio.url,
            label_studio_api_key=TOKEN,
            heartbeat_s=0.5,
            port=stack.port,
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


def run(tasks: int, kills: int, workers: int, seed: int, checkpoint: str, say: Callable[[str], None]) -> Outcome:
    """The whole test."""
    rng = random.Random(seed)
    config = (ROOT / "label_config.xml").read_text(encoding="utf-8")
    with (
        tempfile.TemporaryDirectory() as folder,
        run_stand_in(config, ROOT / "demo" / "pictures") as label_studio,
    ):
        fill(label_studio, tasks, rng)
        options = ("--workers", str(workers), "--model", checkpoint)
        with serving(Path(folder), label_studio, *options, PALLAS_MAX_NEW_TOKENS="8") as settings:
            client = connect(settings)
            log = Path(folder) / "bulk.log"
            process = bulk(settings, "--project", "1", log=log)
            # not among the last tasks: a worker that nobody needs any more is killed in vain
            for at in sorted(rng.sample(range(int(tasks * 0.9)), kills)):
                _wait(lambda at=at: len(label_studio.predictions) >= at, 600)  # type: ignore[misc]
                moment = rng.choice(MOMENTS)
                _wait(lambda: kill_one(client, moment, rng), 120)  # noqa: B023
                say(f"{len(label_studio.predictions)} done: killed a worker {moment} a job")
            process.wait(3600)
            ledger = Ledger.open(client, names(client)[0])
            failed = ledger.failures()
            if failed:
                say(f"{failed} tasks lost two workers and are on the failed list: tried again, as a person would")
                bulk(settings, "retry-failed", ledger.job, log=log).wait(600)
            counts = label_studio.counts()
            retried = int(ledger.fields().get("retried", 0)) - failed
            put_back = (Path(folder) / "serve.log").read_text().count("back into its queue")
            say(f"{put_back} jobs had been taken from the queue but not begun, and were put back")
            return Outcome(
                sent=tasks,
                done=sum(1 for task in label_studio.tasks if counts[task]),
                lost=sum(1 for task in label_studio.tasks if not counts[task]),
                duplicated=sum(count - 1 for count in counts.values()),
                retried=retried + put_back,
            )


def fill(label_studio: StandIn, tasks: int, rng: random.Random) -> None:
    """So many tasks, each with a box on one of the demo's pictures."""
    pictures = sorted(path.name for path in (ROOT / "demo" / "pictures").glob("*.jpg"))
    for number in range(tasks):
        sides = {"x": rng.uniform(0, 50), "y": rng.uniform(0, 50), "width": rng.uniform(10, 50), "height": 40}
        drawn = {"id": f"box-{number}", "type": "rectanglelabels", "from_name": "box", "to_name": "image"}
        value = {"value": sides | {"rotation": 0, "rectanglelabels": ["object"]}}
        label_studio.add({"image": f"/data/upload/1/{pictures[number % len(pictures)]}"}, drawn | value)


def _wait(done: Callable[[], bool], seconds: float) -> bool:
    until = time.monotonic() + seconds
    while not done():
        if time.monotonic() > until:
            return False
        time.sleep(0.002)
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the counts; the exit code is 0 if nothing was lost or duplicated."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", default="tiny", help="name or folder")
    options = parser.parse_args(arguments)
    console = Console(stderr=options.json)
    begin = time.monotonic()
    outcome = run(
        options.tasks,
        options.kills,
        options.workers,
        options.seed,
        options.checkpoint,
        lambda line: console.print(line, highlight=False),
    )
    if options.json:
        print(json.dumps(vars(outcome)))
    else:
        console.print(f"{options.kills} kills in {time.monotonic() - begin:.0f} s", highlight=False)
        for name, count in vars(outcome).items():
            console.print(f"{name:>10} {count}", highlight=False)
    return int(outcome.lost > 0 or outcome.duplicated > 0)


if __name__ == "__main__":
    sys.exit(main())
