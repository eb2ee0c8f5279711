"""What Redis holds of each kind of key after 50,000 tasks of ten regions, and whether it is bounded.

    python -m benchmarks.keys [--tasks 50000] [--regions 10]

In a real Redis of its own: answers that are remembered (a blob of a mask each, as long in RLE as masks of photographs
are), the books of a bulk job, jobs with their replies, and tasks that wait for late delivery. No model is asked. The
bytes are Redis' own: MEMORY USAGE of the keys, and used_memory.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import redis
from PIL import Image
from rich.console import Console
from rich.table import Table
from rq.results import Result

from backend.bulk.ledger import Done, Ledger
from backend.bulk.spec import Spec
from backend.job import FUNCTION, JobReply, JobRequest, PointPrompt, RegionPrompt, RegionReply, TextReply
from backend.label_studio.protocol import LabelStudioTask
from backend.predict.late_queue import LateQueue
from backend.queueing.connection import connect
from backend.queueing.queues import BATCH, make_queue
from backend.run.embedded_redis import running
from backend.settings import Settings
from backend.tasks.answers import Answers, Remembered
from benchmarks.faults import ROOT
from model.values.mask import to_rle

SIZE = (1280, 960)
MASKS = 50
CONFIG = (ROOT / "label_config.xml").read_text(encoding="utf-8")


def masks(rng: np.random.Generator) -> list[dict[str, Any]]:
    """Blobs with uneven edges."""
    found = []
    for _ in range(MASKS):
        low = Image.fromarray(rng.integers(0, 256, (12, 16), dtype=np.uint8)).resize(SIZE, Image.Resampling.BICUBIC)
        y, x = np.mgrid[: SIZE[1], : SIZE[0]]
        centre, radius = rng.uniform(0.2, 0.8, 2) * SIZE, rng.uniform(80, 300)
        found.append(to_rle(np.hypot(x - centre[0], y - centre[1]) < radius + np.asarray(low) / 4))
    return found


def region(name: str, mask: dict[str, Any]) -> Remembered:
    prompt = RegionPrompt(points=(PointPrompt(x=41.25, y=33.5, positive=True),), labels=("food",))
    texts = {"caption": "A white ceramic cup of coffee on a saucer, with a spoon beside it, on a wooden table."}
    return Remembered(id=name, image="image", mask=mask, prompt=prompt, labels={"mask": "food"}, texts=texts)


def remember(answers: Answers, tasks: int, regions: int, rng: np.random.Generator) -> None:
    shapes = masks(rng)
    for task in range(tasks):
        names = [rng.bytes(16).hex() for _ in range(regions)]
        answers.keep("1.1700000000", task, [region(name, shapes[i % MASKS]) for i, name in enumerate(names)])


def bulk(client: redis.Redis, tasks: int, regions: int) -> None:
    """A job whose tasks are all done, one in a thousand failed, as the pump writes it."""
    ledger = Ledger.create(client, Spec(project=1, label_config=CONFIG))
    for task in range(tasks):
        score = (task * 7919 % 10_000) / 10_000
        seconds = {"encode": 0.1, "decode": 0.1, "generate": 0.3}
        ledger.settle(str(task), task, Done(regions, score, ("food",) * regions, seconds), [str(task)], task)
        if ledger.would_show(score):
            ledger.show(str(task), score, zlib.compress(b'{"picture": "x", "result": []}' * 100))


def late(settings: Settings, client: redis.Redis, tasks: int, regions: int) -> None:
    """All tasks of one request whose answers are delivered later."""
    box = {"x": 5.0, "y": 5.0, "width": 30.0, "height": 40.0, "rotation": 0, "rectanglelabels": ["food"]}
    item = {"from_name": "box", "to_name": "image", "type": "rectanglelabels", "value": box, "original_width": 1280}
    queue = LateQueue(settings, client)
    for first in range(0, tasks, 1000):
        found = [
            LabelStudioTask.model_validate(
                {
                    "id": task,
                    "data": {"image": f"/data/upload/1/{task:08x}.jpg"},
                    "annotations": [{"id": 1, "result": [item | {"id": f"{task}-{i}"} for i in range(regions)]}],
                }
            )
            for task in range(first, min(first + 1000, tasks))
        ]
        queue.expect("1.1700000000", found, CONFIG, "0" * 32, 1e6)


def jobs(client: redis.Redis, tasks: int, regions: int) -> None:
    """Requests and replies, as long as they are there: eight a worker while in work, those of batches for an hour."""
    shapes, queue = masks(np.random.default_rng(0)), make_queue(BATCH, client)
    for task in range(tasks):
        asked = JobRequest(request_id="0" * 32, picture=f"/data/upload/1/{task:08x}.jpg", sent_at=0)
        job = queue.create_job(FUNCTION, args=(asked.model_dump(mode="json"),), result_ttl=3600)
        job.save()
        texts = {"brief": TextReply(string="A white ceramic cup of coffee on a saucer, with a spoon.", score=0.5)}
        found = tuple(
            RegionReply(mask=shapes[i % MASKS], area=90_000, iou=0.9, object_score=1.0, texts=texts)
            for i in range(regions)
        )
        reply = JobReply(width=1280, height=960, groups=(found,), seconds={}, model_version="tiny@0", cached=False)
        Result.create(job, Result.Type.SUCCESSFUL, ttl=3600, return_value=reply.model_dump(mode="json"))


def measure(client: redis.Redis) -> tuple[int, dict[str, tuple[int, int]]]:
    """Redis' used memory, and of each kind of key how many and their bytes."""
    counts: Counter[str] = Counter()
    sizes: defaultdict[str, int] = defaultdict(int)
    keys = list(client.scan_iter(count=5000))
    for first in range(0, len(keys), 5000):
        pipe = client.pipeline(transaction=False)
        for key in keys[first : first + 5000]:
            pipe.memory_usage(key, samples=0)
        for key, size in zip(keys[first : first + 5000], pipe.execute(), strict=True):
            kind = ":".join(key.decode().split(":")[:2])
            counts[kind] += 1
            sizes[kind] += size or 0
    memory: Any = client.info("memory")
    return int(memory["used_memory"]), {kind: (counts[kind], sizes[kind]) for kind in sorted(counts)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Fill, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.keys", description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", type=int, default=50_000)
    parser.add_argument("--regions", type=int, default=10)
    options = parser.parse_args(arguments)
    table = Table("what", "keys", "Redis' memory, MB", "seconds")
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(state_dir=Path(folder), label_studio_url="http://x", label_studio_api_key="x")
        with running(settings):
            client = connect(settings, blocking=True)
            works: dict[str, Any] = {
                "answers, without a bound": lambda: remember(
                    Answers(client, 86_400, 1 << 50), options.tasks, options.regions, np.random.default_rng(0)
                ),
                "answers, as they are bounded": lambda: remember(
                    Answers.of(settings, client), options.tasks, options.regions, np.random.default_rng(0)
                ),
                "books of a bulk job": lambda: bulk(client, options.tasks, options.regions),
                "jobs with their replies": lambda: jobs(client, options.tasks // 10, options.regions),
                "waiting for late delivery": lambda: late(settings, client, options.tasks, options.regions),
            }
            for name, work in works.items():
                client.flushall()
                before, _ = measure(client)
                begin = time.perf_counter()
                work()
                taken = time.perf_counter() - begin
                after, kinds = measure(client)
                keys = ", ".join(f"{kind} {count} ({size / 1e6:.2f} MB)" for kind, (count, size) in kinds.items())
                used = after - before
                table.add_row(name, keys, f"{used / 1e6:.1f}", f"{taken:.0f}")
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
