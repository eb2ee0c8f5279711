"""What we lean on in rq and in redis-py's lock, with a real Redis: a release that changes it fails here.

docs/development.md says how to run this against another release of rq.
"""

from __future__ import annotations

import ast
import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from redis.connection import AbstractConnection
from rq.job import JobStatus

from backend.job import FUNCTION, JobReply, JobRequest
from backend.queueing import alarm, heartbeat, queues
from backend.queueing.connection import connect
from backend.queueing.leases import Lease
from backend.queueing.queues import BATCH, BULK, CLIPS, INTERACTIVE, Failure, Job, clips_key, make_queue, private_key
from backend.queueing.rq_worker import QueueWorker
from backend.run.embedded_redis import running
from backend.settings import Settings
from backend.worker import engine
from backend.worker.worker import ResidentWorker
from model import TokenLimits
from tests.waiting import HANG_S

ROOT = Path(__file__).parent.parent.parent
HERE = __name__


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    settings = Settings(state_dir=tmp_path_factory.mktemp("rq"))
    with running(settings):
        yield settings


@pytest.fixture
def client(settings: Settings) -> redis.Redis:
    client = connect(settings, blocking=True)
    client.flushall()
    return client


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """rq's worker takes over some."""
    kinds = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
    before = [signal.getsignal(kind) for kind in kinds]
    yield
    for kind, handler in zip(kinds, before, strict=True):
        signal.signal(kind, handler)


def put(client: redis.Redis, name: str, queue: str = BULK, limit_s: int = 60, **more: Any) -> Job:
    at = make_queue(queue, client, more.pop("key", None))
    return queues.enqueue(at, f"{HERE}.{name}", {"n": 7}, "d", limit_s=limit_s, result_s=60, failure_s=60, **more)


def worker(client: redis.Redis, kind: type[QueueWorker] = QueueWorker, name: str = "w") -> Any:
    names = (f"{INTERACTIVE}:{name}", INTERACTIVE, f"{CLIPS}:{name}", BATCH, BULK)
    return kind.on(names, name, client)


def answer(client: redis.Redis, job: Job) -> Any:
    return queues.results(client, [job.id], 10)[job.id]


# what jobs of these tests do


def seven(payload: dict[str, int]) -> dict[str, int]:
    return payload


def fault(_: object) -> None:
    raise ValueError("the reason")


def obstinate(_: object) -> None:
    """Catches every Exception, and goes on for much longer than anybody waits."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        with contextlib.suppress(Exception):
            time.sleep(0.01)


def deaf(_: object) -> None:
    """Loses the first interruption altogether, as a library with a bare except does."""
    try:
        obstinate(None)
    except BaseException:
        obstinate(None)


def test_nobody_else_uses_rq() -> None:
    found = set()
    for path in (ROOT / "backend").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            if any(name.split(".")[0] == "rq" for name in names):
                found.add(str(path.relative_to(ROOT / "backend")))
    assert found == {"queueing/queues.py", "queueing/rq_worker.py", "queueing/alarm.py"}


def test_a_job_of_an_id_waits_where_it_was_put_and_once(client: redis.Redis) -> None:
    """Video slices: an id of their own, and a queue that only one worker looks at."""
    for _ in range(2):
        put(client, "seven", key=clips_key("w"), job_id="once-a")
    put(client, "seven", INTERACTIVE, key=private_key("w"), waits_s=8000)
    assert client.lrange(clips_key("w"), 0, -1) == [b"once-a"]
    assert client.llen(private_key("w")) == 1
    assert make_queue(BULK, client).count == make_queue(INTERACTIVE, client).count == 0
    job = queues.find(client, "once-a")
    assert job is not None and job.origin == BULK and client.sismember(queues.JOBS, "once-a")
    # the worker of that name looks there, and no other
    assert {clips_key("w"), private_key("w")} <= set(worker(client).queue_keys())
    assert worker(client, name="v").work(burst=True) is False
    assert worker(client).work(burst=True) is True
    assert answer(client, job).return_value == {"n": 7}
    queues.drop_private(client, "w")
    assert client.smembers("rq:queues") == set()


def test_a_job_that_waits_in_vain_is_forgotten_and_one_with_an_id_is_not(client: redis.Redis) -> None:
    assert 7000 < client.ttl(queues.job_key(put(client, "seven", waits_s=8000).id)) <= 8000
    assert client.ttl(queues.job_key(put(client, "seven", job_id="b").id)) == -1


def test_a_job_that_another_forgot_meanwhile_is_no_fault(client: redis.Redis) -> None:
    """Two batches share a job and take it away at once, or it expires as somebody gives up waiting for it."""
    for end in (queues.drop, queues.take_back):
        job = put(client, "seven", job_id="shared")
        queues.forget(client, "shared")
        end(job)
        queues.forget(client, "shared")
        assert queues.find(client, "shared") is None
    waits, runs = put(client, "seven"), put(client, "seven")
    runs.set_status(JobStatus.STARTED)
    assert queues.take_back(waits) and not queues.take_back(runs)
    assert waits.get_status() == "canceled" and runs.get_status() == "started"


def test_results_and_failures(client: redis.Redis) -> None:
    good, bad, late = put(client, "seven"), put(client, "fault"), put(client, "obstinate", limit_s=1)
    assert queues.results(client, [good.id, bad.id], 0.05) == {}
    worker(client).work(burst=True)
    found = queues.results(client, [good.id, bad.id, late.id], 10)
    assert found[good.id].return_value == {"n": 7} and queues.failure(found[good.id]) is None
    assert queues.failure(found[bad.id]) is Failure.FAULT and "the reason" in str(found[bad.id].exc_string)
    assert queues.failure(found[late.id]) is Failure.OVERRAN
    # what is forgotten leaves no answer for a job of the same id
    queues.forget(client, good.id)
    assert queues.find(client, good.id) is None and queues.results(client, [good.id], 0) == {}


def test_who_waits_is_woken(settings: Settings, client: redis.Redis) -> None:
    job = put(client, "seven")
    found: list[Any] = []
    waiting = threading.Thread(target=lambda: found.append(queues.results(connect(settings, True), [job.id], 60)))
    waiting.start()
    worker(client).work(burst=True)
    waiting.join(HANG_S)
    assert found and found[0][job.id].return_value == {"n": 7}


def test_a_job_that_runs_is_known_with_its_worker_and_can_be_given_up(client: redis.Redis) -> None:
    job, other = put(client, "seven"), put(client, "seven")
    worker(client, name="gone").prepare_execution(job)
    ((job_id, key, name),) = queues.running(client, BULK)
    assert (job_id, name) == (job.id, "gone") and job.get_status(refresh=True) == "started"
    client.lrem(make_queue(BULK, client).key, 0, job.id)
    worker(client).work(burst=True)
    queues.abandon(client, BULK, [key])
    assert queues.failure(answer(client, job)) is Failure.LOST
    assert queues.running(client, BULK) == [] and answer(client, other).return_value == {"n": 7}
    queues.lose(other)
    assert queues.failure(queues.results(client, [other.id], 0)[other.id]) is Failure.LOST


def test_few_commands_wait_for_redis(client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is a wait in the midst of a click."""
    sent: list[object] = []
    send = AbstractConnection.send_packed_command

    def counted(connection: AbstractConnection, *command: Any, **named: Any) -> None:
        sent.append(command)
        send(connection, *command, **named)

    def cost(jobs: int) -> int:
        for _ in range(jobs):
            put(client, "seven", INTERACTIVE)
        mine = worker(client)
        sent.clear()
        mine.work(burst=True)
        return len(sent)

    put(client, "seven")
    monkeypatch.setattr(AbstractConnection, "send_packed_command", counted)
    put(client, "seven")
    assert len(sent) == 1
    cost(0)  # those two
    # two queues, the job, that it begins, that it has ended, idle
    assert cost(3) - cost(2) <= 6
    heartbeat.everybody(client)
    sent.clear()
    heartbeat.everybody(client)
    assert len(sent) == 1


def test_a_job_goes_back_to_the_front_once(client: redis.Redis) -> None:
    jobs = [put(client, "seven") for _ in range(3)]
    queues.put_back(client, jobs[2])
    assert make_queue(BULK, client).get_job_ids() == [jobs[2].id, jobs[0].id, jobs[1].id]
    mine = worker(client)
    jobs[2].delete()
    taken = mine.take_another(make_queue(BULK, client))
    assert taken is not None and taken.id == jobs[0].id
    assert mine.take_another(make_queue(BATCH, client)) is None


def test_what_is_no_job_is_told(client: redis.Redis) -> None:
    job = put(client, "seven")
    name, arguments = queues.asked(job) or ("", ())
    assert name == f"{HERE}.seven" and list(arguments) == [{"n": 7}]
    client.hset(job.key, "data", b"\x80\x05N.")
    broken = queues.find(client, job.id)
    assert broken is not None and queues.asked(broken) is None


@pytest.mark.parametrize("name", ["obstinate", "deaf"])
def test_a_job_that_catches_everything_ends_and_the_worker_goes_on(client: redis.Redis, name: str) -> None:
    late, next_one = put(client, name, limit_s=1), put(client, "seven")
    assert worker(client).work(burst=True)
    assert queues.failure(answer(client, late)) is Failure.OVERRAN
    assert answer(client, next_one).return_value == {"n": 7}
    assert not alarm.is_set() and signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


class SlowInference:
    """In place of a model: a picture called slow takes a minute, and catches every Exception meanwhile."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def run(self, requests: list[JobRequest]) -> list[JobReply]:
        self.asked.append(len(requests))
        for request in requests:
            if request.picture == "slow":
                obstinate(None)
        return [JobReply(width=1, height=1, groups=(), seconds={}, model_version="m", cached=True) for _ in requests]


def test_companions_of_a_job_that_takes_too_long_are_answered(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = SimpleNamespace(version="m", device=SimpleNamespace(type="cpu"))
    resident = engine.Engine(Settings(), model, model)
    inference: Any = SlowInference()
    resident._inference = inference
    monkeypatch.setattr(engine, "_resident", resident)
    jobs = {}
    for picture in ("a", "slow", "b"):
        request = JobRequest(request_id="r" * 12, picture=picture, limits=TokenLimits.same(4), sent_at=0)
        queue = make_queue(BULK, client)
        jobs[picture] = queues.enqueue(
            queue, FUNCTION, request.model_dump(mode="json"), "d", limit_s=1, result_s=60, failure_s=60
        )
    mine = worker(client, ResidentWorker)
    mine.step_s, mine.job_s = 100.0, 0.001
    mine.work(burst=True)
    assert inference.asked == [3, 1, 1, 1] and mine.steps == 1
    assert queues.failure(answer(client, jobs["slow"])) is Failure.OVERRAN
    for picture in ("a", "b"):
        assert answer(client, jobs[picture]).return_value["width"] == 1


def test_a_worker_that_is_told_to_end_finishes_what_it_took_together(client: redis.Redis) -> None:
    """Between two of them too: rq takes a worker for idle as soon as the first is done."""
    mine = worker(client)
    jobs = [put(client, "seven") for _ in range(2)]
    begun = [(job, mine.prepare_execution(job)) for job in jobs]
    mine._install_signal_handlers()
    first = mine.perform_job

    def perform(*arguments: Any) -> bool:
        done: bool = first(*arguments)
        signal.raise_signal(signal.SIGTERM)
        mine.perform_job = first
        return done

    mine.perform_job = perform
    mine.perform_all(begun, make_queue(BULK, client))
    assert [answer(client, job).return_value for job in jobs] == [{"n": 7}] * 2 and mine._stop_requested


def test_a_lease_has_one_holder(client: redis.Redis) -> None:
    first, second = Lease(client, "lease", 60), Lease(client, "lease", 60)
    assert first.hold() and first.hold() and not second.hold() and not second.renew()
    second.release()
    assert first.renew() and 0 < client.pttl("lease") <= 60_000
    # as after an outage: it lapsed, and another has it; what the first does changes nothing
    client.delete("lease")
    assert not first.renew() and client.exists("lease") == 0
    assert second.hold() and not first.renew() and not first.hold()
    first.release()
    assert second.renew()
    # an answer that was lost on its way: the same holder may take it again
    assert Lease(client, "other", 60, "me").hold() and Lease(client, "other", 60, "me").hold()


def test_a_lease_does_not_lapse_while_its_block_runs(client: redis.Redis) -> None:
    first, second = Lease(client, "long", 3), Lease(client, "long", 3)
    with first.renewed():
        assert first.hold()
        for _ in range(16):
            time.sleep(0.25)
            assert not second.hold()
    first.release()
    assert second.hold()
