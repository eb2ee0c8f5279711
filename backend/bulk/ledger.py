"""The books of a bulk job in Redis: what it is to do, how far it is, what failed and why. Their size is bounded by the
number of failures, not of tasks; times are by Redis' own clock.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import redis

from backend.bulk.spec import Spec
from backend.errors import BadRequest
from backend.queueing.heartbeat import members
from backend.queueing.leases import Lease

RUNNING, PAUSED, CANCELLED, FINISHED = "running", "paused", "cancelled", "finished"

NOTHING_MARKED = "nothing marked"
"""Why a task was left alone in which nobody has drawn anything, and nobody asked for proposals."""

_ALL = "pallas:bulk"
_LEASE_S = 8.0
_KEPT_S = 90 * 86_400
"""How long the books of an ended job stay; those of a paused one stay until it is taken up again."""
_BOOKS = ("", ":tasks", ":ahead", ":later", ":due", ":failed", ":labels", ":least", ":shown")
_LEAST = 24
_BINS = 10


@dataclass(frozen=True)
class Trouble:
    """A task that failed: how, and how often; deaths counts the workers that ended with it in hand.

    `file` is what its picture or video is called.
    """

    key: str
    type: str
    message: str
    tries: int = 1
    deaths: int = 0
    file: str = ""

    def to_json(self) -> str:
        entries = asdict(self)
        del entries["key"]
        return json.dumps(entries, ensure_ascii=False)

    @classmethod
    def of(cls, key: bytes, text: bytes) -> Trouble:
        return cls(key=key.decode(), **json.loads(text))


@dataclass(frozen=True)
class Done:
    """What the summary wants of a finished task."""

    regions: int = 0
    score: float | None = None
    labels: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    skipped: str = ""


class Ledger:
    """One job's books.

    Raises (of every method): redis.RedisError.
    """

    def __init__(self, client: redis.Redis, job: str) -> None:
        self._redis = client
        self.job = job
        self._key = f"{_ALL}:{job}"
        self._lease = Lease(client, f"{self._key}:lease", _LEASE_S)

    @classmethod
    def create(cls, client: redis.Redis, spec: Spec) -> Ledger:
        ledger = cls(client, uuid.uuid4().hex[:8])
        pipe = client.pipeline()
        pipe.hset(ledger._key, mapping={"spec": spec.model_dump_json(), "state": RUNNING, "cursor": -1})
        pipe.hset(ledger._key, "created", ledger.now())
        pipe.zadd(_ALL, {ledger.job: ledger.now()})
        pipe.execute()
        return ledger

    @classmethod
    def open(cls, client: redis.Redis, job: str) -> Ledger:
        """Raises BadRequest where there is no such job."""
        if not client.exists(f"{_ALL}:{job}"):
            known = ", ".join(names(client)) or "none"
            raise BadRequest(f"there is no bulk job {job!r}; known are: {known}")
        return cls(client, job)

    @property
    def list_key(self) -> str:
        """For a list of task ids."""
        return f"{self._key}:tasks"

    def now(self) -> float:
        seconds, micros = self._redis.time()
        return float(seconds) + float(micros) / 1e6

    def spec(self) -> Spec:
        return Spec.model_validate_json(self._text("spec"))

    def state(self) -> str:
        return self._text("state")

    def set_state(self, state: str, note: str = "") -> None:
        pipe = self._redis.pipeline()
        pipe.hset(self._key, mapping={"state": state, "note": note})
        for book in _BOOKS:
            if state in (FINISHED, CANCELLED):
                pipe.expire(self._key + book, _KEPT_S)
            else:
                pipe.persist(self._key + book)
        pipe.execute()

    def fields(self) -> dict[str, str]:
        """All of the books' single entries."""
        found: Any = self._redis.hgetall(self._key)
        return {name.decode(): value.decode() for name, value in found.items()}

    def note(self, **values: float | str) -> None:
        """Write down single entries."""
        entries: dict[Any, Any] = dict(values)
        self._redis.hset(self._key, mapping=entries)

    # who works on it

    def lease(self) -> bool:
        """Take or renew the right to work on the job; False where another program has it."""
        return self._lease.hold()

    def release(self) -> None:
        self._lease.release()

    def is_worked_on(self) -> bool:
        return bool(self._redis.exists(f"{self._key}:lease"))

    # how far it is

    def cursor(self) -> int:
        """All tasks up to this place are settled."""
        return int(self._text("cursor"))

    def ahead(self) -> set[str]:
        """Keys of the settled tasks beyond the cursor."""
        return members(self._redis, f"{self._key}:ahead")

    def settle(
        self, key: str, place: int, done: Done | None, passed: Iterable[str] = (), cursor: int | None = None
    ) -> None:
        """A task is done, or (None) put down as failed or for later; the cursor moves behind the tasks `passed`.

        It counts once, however often it is said: whoever got no answer from Redis says it again.
        """
        passed = list(passed)
        ahead, later = f"{self._key}:ahead", f"{self._key}:later"

        def write(pipe: redis.client.Pipeline) -> None:
            before = pipe.hget(self._key, "cursor")
            first = place > int(before or -1) and not pipe.sismember(ahead, key)
            again = pipe.hexists(later, key)
            pipe.multi()
            if done is not None and (first or again):
                self._count(pipe, done)
                pipe.hdel(later, key)
                pipe.zrem(f"{self._key}:due", key)
            if cursor is not None:
                pipe.hset(self._key, "cursor", cursor)
            elif first:
                pipe.sadd(ahead, key)
            if passed:
                pipe.srem(ahead, *passed)

        self._redis.transaction(write, self._key, ahead, later)

    # what went wrong

    def later(self, trouble: Trouble, seconds: float) -> None:
        """To be tried again after so many seconds; it counts once, however often it is said."""
        later, text, due = f"{self._key}:later", trouble.to_json(), self.now() + seconds

        def write(pipe: redis.client.Pipeline) -> None:
            known = pipe.hget(later, trouble.key) == text.encode()
            pipe.multi()
            pipe.hset(later, trouble.key, text)
            pipe.zadd(f"{self._key}:due", {trouble.key: due})
            if not known:
                pipe.hincrby(self._key, "retried", 1)

        self._redis.transaction(write, later)

    def failed(self, trouble: Trouble) -> None:
        """Given up."""
        pipe = self._redis.pipeline()
        pipe.hdel(f"{self._key}:later", trouble.key)
        pipe.zrem(f"{self._key}:due", trouble.key)
        pipe.hset(f"{self._key}:failed", trouble.key, trouble.to_json())
        pipe.execute()

    def troubles_due(self, most: int) -> list[Trouble]:
        keys: Any = self._redis.zrangebyscore(f"{self._key}:due", "-inf", self.now(), start=0, num=most)
        found: Any = self._redis.hmget(f"{self._key}:later", keys) if keys else []
        return [Trouble.of(key, text) for key, text in zip(keys, found, strict=True) if text is not None]

    def waiting(self) -> int:
        """How many tasks wait to be tried again."""
        return int(self._redis.hlen(f"{self._key}:later"))

    def failures(self) -> int:
        return int(self._redis.hlen(f"{self._key}:failed"))

    def all_failed(self) -> Iterable[Trouble]:
        return (Trouble.of(key, text) for key, text in self._redis.hscan_iter(f"{self._key}:failed"))

    def retry_failed(self) -> int:
        """Put what failed down to be tried again, with a clean slate; how many."""
        count = 0
        for trouble in self.all_failed():
            pipe = self._redis.pipeline()
            pipe.hset(f"{self._key}:later", trouble.key, replace(trouble, tries=0, deaths=0).to_json())
            pipe.zadd(f"{self._key}:due", {trouble.key: self.now()})
            pipe.hdel(f"{self._key}:failed", trouble.key)
            pipe.hincrby(self._key, "retried", 1)
            pipe.execute()
            count += 1
        return count

    # for the summary

    def labels(self) -> dict[str, int]:
        found: Any = self._redis.hgetall(f"{self._key}:labels")
        return {name.decode(): int(count) for name, count in found.items()}

    def least_certain(self) -> list[tuple[str, float]]:
        """Keys and scores of the tasks with the lowest scores."""
        found: Any = self._redis.zrange(f"{self._key}:least", 0, _LEAST - 1, withscores=True)
        return [(key.decode(), float(score)) for key, score in found]

    def would_show(self, score: float) -> bool:
        """Whether a task with this score is among the least certain so far."""
        last: Any = self._redis.zrange(f"{self._key}:least", _LEAST - 1, _LEAST - 1, withscores=True)
        return not last or score < float(last[0][1])

    def show(self, key: str, score: float, shown: bytes) -> None:
        """Keep what the report shows of a task, and drop who is not among the least certain any more."""
        self._redis.zadd(f"{self._key}:least", {key: score})
        self._redis.hset(f"{self._key}:shown", key, shown)
        gone: Any = self._redis.zrange(f"{self._key}:least", _LEAST, -1)
        if gone:
            self._redis.zrem(f"{self._key}:least", *gone)
            self._redis.hdel(f"{self._key}:shown", *gone)

    def shown(self, key: str) -> bytes | None:
        found = self._redis.hget(f"{self._key}:shown", key)
        return found if isinstance(found, bytes) else None

    def _count(self, pipe: redis.client.Pipeline, done: Done) -> None:
        pipe.hincrby(self._key, f"skipped {done.skipped}" if done.skipped else "done", 1)
        if done.skipped:
            return
        pipe.hincrby(self._key, "regions", done.regions)
        for label in done.labels:
            pipe.hincrby(f"{self._key}:labels", label, 1)
        if done.score is not None:
            pipe.hincrby(self._key, f"score {min(int(done.score * _BINS), _BINS - 1)}", 1)
        for stage, seconds in done.seconds.items():
            pipe.hincrbyfloat(self._key, f"seconds {stage}", seconds)

    def _text(self, name: str) -> str:
        found = self._redis.hget(self._key, name)
        return found.decode() if isinstance(found, bytes) else ""


def names(client: redis.Redis) -> list[str]:
    """All jobs whose books are still there, the newest first."""
    found: Any = client.zrevrange(_ALL, 0, -1)
    there = {name: client.exists(f"{_ALL}:{name.decode()}") for name in found}
    if gone := [name for name, kept in there.items() if not kept]:
        client.zrem(_ALL, *gone)
    return [name.decode() for name, kept in there.items() if kept]
