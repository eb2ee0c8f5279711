"""Clicks join while others are under way: each is answered when it is done, with what it would be told alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from backend.job import FUNCTION, VERSION, JobRequest, TextAsk
from backend.queueing import queues
from backend.queueing.affinity import Affinity
from backend.queueing.affinity import clicks as served
from backend.queueing.queues import BULK, INTERACTIVE, Failure, make_queue
from backend.settings import Settings
from backend.worker import engine as engines
from backend.worker.engine import Engine
from backend.worker.worker import ResidentWorker
from model import PerceiveAnything, Task, TokenLimits
from tests.backend.test_inference import answers, clicks, engine, job, without_seconds
from tests.faults.test_rq import SlowInference, answer, signals

__all__ = ["engine", "signals"]  # fixtures

SHORT, LONG = (TextAsk(task=Task.RECOGNIZE),), (TextAsk(task=Task.BRIEF), TextAsk(task=Task.DETAILED))


@pytest.fixture
def joining(pam: PerceiveAnything) -> Iterator[PerceiveAnything]:
    pam.stay(compiled=False)
    yield pam
    pam.language.decoder = None


def asked(folder: Path) -> list[dict[str, Any]]:
    """The first takes long; the others are of all kinds."""
    return [
        job(folder / "0.png", clicks((50, 50), texts=LONG, label_sets=()), limits=TokenLimits.same(40)),
        job(folder / "1.png", clicks((40, 60), (20, 20), texts=SHORT), limits=TokenLimits.same(3)),
        job(folder / "broken.png", clicks((50, 50))),
        job(folder / "1.png", clicks((50, 50)), version=1),
        job(folder / "0.png", clicks((30, 50)), clicks((60, 60), texts=SHORT, label_sets=())),
        job(folder / "2.png"),
        job(folder / "2.png", clicks((70, 50), texts=(), label_sets=())),
    ]


def test_a_click_that_comes_later_is_answered_first(engine: Engine, joining: PerceiveAnything, tmp_path: Path) -> None:
    payloads = asked(tmp_path)
    assert engine.joins
    waiting = iter(payloads[1:])
    done = list(engine.answering(payloads[0], lambda: list(itertools.islice(waiting, 1))))
    assert sorted(map(payloads.index, done)) == list(range(7)) and payloads.index(done[-1]) == 0
    together = answers(engine, payloads)
    joining.language.decoder = None
    assert not engine.joins
    for one, alone in zip(together, answers(engine, payloads), strict=True):
        assert without_seconds(one) == without_seconds(alone)


def test_what_fails_beside_others_is_tried_alone(
    engine: Engine, joining: PerceiveAnything, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = joining.segment

    def poisoned(embedding: Any, prompts: Any, *rest: Any) -> Any:
        if any(prompt.points == ((1, 1, 1),) for prompt in prompts):
            raise RuntimeError("the model cannot bear this one")
        return original(embedding, prompts, *rest)

    monkeypatch.setattr(joining, "segment", poisoned)
    payloads = [job(tmp_path / "0.png", clicks((50, 50))), job(tmp_path / "1.png", clicks((1, 2)))]
    more = iter([payloads[1:]])
    assert set(map(payloads.index, engine.answering(payloads[0], lambda: next(more, [])))) == {0, 1}
    assert "groups" in engine.perform(payloads[0])
    with pytest.raises(RuntimeError, match="cannot bear"):
        engine.perform(payloads[1])


def put(client: redis.Redis, queue: str, payload: dict[str, Any], limit_s: int = 60) -> Any:
    where = make_queue(queue, client)
    return queues.enqueue(where, FUNCTION, payload, "d", limit_s=limit_s, result_s=60, failure_s=60)


def worker(client: redis.Redis) -> ResidentWorker:
    return ResidentWorker.on((f"{INTERACTIVE}:w", INTERACTIVE, BULK), "w", client)


def test_a_worker_takes_clicks_while_one_is_under_way(
    engine: Engine, joining: PerceiveAnything, tmp_path: Path, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From both queues of clicks, not from others; each job has its own reply, in the order in which they are done."""
    monkeypatch.setattr(engines, "_resident", engine)
    known = [payload for payload in asked(tmp_path) if payload["version"] == VERSION]
    payloads = [payload | {"request_id": f"r{n}"} for n, payload in enumerate(known)]
    first = put(client, INTERACTIVE, payloads[0])
    later: list[Any] = []
    advance = joining.advance

    def step() -> None:
        if not later:
            for number, payload in enumerate(payloads[1:]):
                later.append(put(client, f"{INTERACTIVE}:w" if number % 2 else INTERACTIVE, payload))
            later.append(put(client, BULK, payloads[1] | {"request_id": "bulk"}))
        advance()

    monkeypatch.setattr(joining, "advance", step)
    mine, order = worker(client), []
    mine.affinity, before = Affinity(client), served(client)
    perform = mine.perform_job

    def noted(one: Any, *rest: Any) -> bool:
        order.append(one.args[0]["request_id"])
        return perform(one, *rest)

    monkeypatch.setattr(mine, "perform_job", noted)
    mine.work(burst=True)
    assert order.index("r0") == 5 and order[-1] == "bulk" and mine.jobs == 7 and mine.steps == 2
    assert served(client) == before + 6
    joining.language.decoder = None
    for number, found in enumerate([first, *later[:-1]]):
        value = answer(client, found).return_value
        assert without_seconds(value) == without_seconds(engine.perform(payloads[number]))


def test_a_job_of_another_kind_goes_back_to_the_front(
    engine: Engine, joining: PerceiveAnything, tmp_path: Path, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "_resident", engine)
    payloads = [job(tmp_path / "0.png", clicks((50, 50)), request_id=f"r{n}", alone=n == 1) for n in range(4)]
    jobs = [put(client, INTERACTIVE, payload) for payload in payloads]
    mine = worker(client)
    mine.work(burst=True)
    assert all("groups" in answer(client, one).return_value for one in jobs)
    assert (mine.jobs, mine.steps) == (4, 3)  # the first; that which wants to be alone; the last two


def test_clicks_that_take_too_long_together_are_tried_alone(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = SimpleNamespace(version="m", device=SimpleNamespace(type="cpu"), joins=True)
    resident = Engine(Settings(), model, model)
    inference: Any = SlowInference()
    inference.joins = True

    def together(first: JobRequest, more: Any) -> Iterator[Any]:
        everybody: Sequence[JobRequest] = [first, *more()]
        inference.run(everybody)
        yield from ()

    inference.answering = together
    resident._inference = inference
    monkeypatch.setattr(engines, "_resident", resident)
    jobs = {
        name: put(
            client,
            INTERACTIVE,
            JobRequest(request_id=name, picture=name, limits=TokenLimits.same(4), sent_at=0).model_dump(mode="json"),
            1,
        )
        for name in ("a", "slow", "b")
    }
    worker(client).work(burst=True)
    assert inference.asked == [3, 1, 1, 1]
    assert queues.failure(answer(client, jobs["slow"])) is Failure.OVERRAN
    for name in ("a", "b"):
        assert answer(client, jobs[name]).return_value["width"] == 1
