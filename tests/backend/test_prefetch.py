"""Pictures of one step are fetched beside each other, and those of the next one while this one is computed."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from PIL import Image

from backend.errors import PictureNotFound
from backend.fetching.pictures import PictureStore
from backend.queueing import alarm, queues
from backend.queueing.queues import BULK, PRIVATE
from backend.settings import Settings
from backend.worker import engine as engines
from backend.worker import prefetch
from backend.worker.embedding_locks import EmbeddingLocks
from backend.worker.embeddings import Embeddings
from backend.worker.engine import Engine
from backend.worker.prefetch import Prefetch
from model import PerceiveAnything, TokenLimits
from tests.backend.test_inference import answers, clicks, job, without_seconds
from tests.backend.test_sitting import joining, put, worker
from tests.faults.test_rq import answer, signals
from tests.waiting import wait_until

__all__ = ["joining", "signals"]  # fixtures

_HANG_S = 60
"""Bounds a hang; nothing is expected to take so long."""


class Store:
    """Pictures of a folder, each counted when it is fetched; `before` is called first."""

    def __init__(self, folder: Path, client: redis.Redis, **changes: Any) -> None:
        self.settings = Settings(local_roots=(folder,), **changes)
        self.folder = folder
        self.fetched: Counter[str] = Counter()
        self.before: Callable[[str], object] = lambda _: None
        self.pictures = PictureStore(self.settings, client)
        fetch = self.pictures.fetch

        def counted(reference: str) -> bytes:
            self.fetched[Path(reference).name] += 1
            self.before(Path(reference).name)
            return fetch(reference)

        self.pictures.fetch = counted  # type: ignore[method-assign]

    def __getitem__(self, number: int) -> str:
        """The address of a picture, drawn if need be."""
        path = self.folder / f"{number}.jpg"
        if not path.exists():
            Image.new("RGB", (60 + 10 * number, 50), (20 * number, 90, 30)).save(path)
        return str(path)

    def engine(self, pam: PerceiveAnything, client: redis.Redis) -> Engine:
        locks = EmbeddingLocks(client, pam.version, 60)
        return Engine(self.settings, pam, Embeddings(self.settings, pam, self.pictures, locks))


@pytest.fixture
def store(tmp_path: Path, client: redis.Redis) -> Store:
    return Store(tmp_path, client)


def waiting(engine: Engine) -> Prefetch:
    return engine._embeddings._prefetch


def asked(store: Store, *numbers: int, **more: Any) -> list[dict[str, Any]]:
    short = {"limits": TokenLimits.same(3)} | more
    return [job(store[number], clicks((50, 50)), request_id=f"r{number}", **short) for number in numbers]


def test_the_pictures_of_a_step_are_fetched_beside_each_other(
    store: Store, pam: PerceiveAnything, client: redis.Redis
) -> None:
    """None would come before all have been asked for."""
    all_there = threading.Barrier(3, timeout=_HANG_S)
    store.before = lambda _: all_there.wait()
    engine = store.engine(pam, client)
    payloads = asked(store, 0, 1, 2, 1)  # the same picture twice is fetched once
    engine.expect(payloads)
    together = answers(engine, payloads)
    assert all("groups" in one for one in together) and store.fetched == {"0.jpg": 1, "1.jpg": 1, "2.jpg": 1}
    assert engine.stats()["embeddings_encoded"] == 3 and engine.stats()["picture_bytes"] == 0


def test_what_comes_next_is_opened_meanwhile(store: Store, pam: PerceiveAnything, client: redis.Redis) -> None:
    engine = store.engine(pam, client)
    now, *after = asked(store, 0, 1, 2)
    (store.folder / "broken.jpg").write_bytes(b"\xff\xd8 not really")
    after += [
        job(store.folder / "broken.jpg", clicks((50, 50))),
        job(store.folder / "gone.jpg", clicks((50, 50))),
    ]
    # the first one's fetch ends when all others have been asked for
    expected = {"0.jpg", "1.jpg", "2.jpg", "broken.jpg", "gone.jpg"}
    store.before = lambda name: wait_until(lambda: set(store.fetched) == expected, _HANG_S) if name == "0.jpg" else None
    engine.coming(after)
    assert "groups" in engine.perform(now)
    wait_until(lambda: all(one.future.done() for one in waiting(engine)._under_way.values()), _HANG_S)
    assert waiting(engine).nbytes == engine.stats()["picture_bytes"] > 0
    found = answers(engine, after)
    assert [one.get("error", {}).get("type") for one in found] == [None, None, "PictureError", "PictureNotFound"]
    assert set(store.fetched.values()) == {1} and engine.stats()["picture_bytes"] == 0
    fresh = Store(store.folder, client).engine(pam, client)
    for one, alone in zip(found, answers(fresh, after), strict=True):
        assert without_seconds(one) == without_seconds(alone)
    # known pictures are not fetched, whatever is expected
    engine.coming(asked(store, 1, 2))
    assert not waiting(engine)._under_way


def test_what_is_not_expected_any_more_is_dropped(store: Store, pam: PerceiveAnything, client: redis.Redis) -> None:
    """Memory stays flat however many pictures were looked forward to in vain."""
    engine = store.engine(pam, client)
    for first in range(0, 30, 3):
        engine.coming(asked(store, first, first + 1, first + 2))
        wait_until(lambda: all(one.future.done() for one in waiting(engine)._under_way.values()), _HANG_S)
        assert len(waiting(engine)._under_way) == 3 and waiting(engine).nbytes < 3 * 3 * 400 * 50
    engine.coming([])
    assert not waiting(engine)._under_way and engine.stats()["picture_bytes"] == 0


def test_no_more_is_opened_ahead_than_there_is_room_for(
    store: Store, pam: PerceiveAnything, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetch, "_AHEAD_BYTES", 1)
    monkeypatch.setattr(prefetch, "_THREADS", 1)
    engine = store.engine(pam, client)
    payloads = asked(store, 0, 1, 2, 3)
    engine.coming(payloads)
    wait_until(lambda: all(one.future.done() for one in waiting(engine)._under_way.values()), _HANG_S)
    assert store.fetched == {"0.jpg": 1}
    assert all("groups" in one for one in answers(engine, payloads))
    assert set(store.fetched.values()) == {1}


def test_a_picture_may_change_while_it_is_looked_forward_to(
    tmp_path: Path, pam: PerceiveAnything, client: redis.Redis
) -> None:
    """As long as an address is believed, and no longer."""
    store = Store(tmp_path, client, picture_memory_s=0)
    engine = store.engine(pam, client)
    (payload,) = asked(store, 0)
    engine.coming([payload])
    wait_until(lambda: all(one.future.done() for one in waiting(engine)._under_way.values()), _HANG_S)
    Image.new("RGB", (77, 33)).save(store.folder / "0.jpg")
    assert engine.perform(payload)["width"] == 77 and store.fetched["0.jpg"] == 2


def test_a_time_limit_ends_the_job_that_waits_and_no_other(
    store: Store, pam: PerceiveAnything, client: redis.Redis, signals: None
) -> None:
    hangs = threading.Event()
    store.before = lambda name: hangs.wait(_HANG_S) if name == "1.jpg" else None
    engine = store.engine(pam, client)
    now, slow, last = asked(store, 0, 1, 2)
    engine.coming([slow, last])
    assert "groups" in engine.perform(now)  # it does not wait for what is not its own
    with pytest.raises(alarm.JobOverran), alarm.Alarm(0.2):
        engine.perform(slow)
    assert "groups" in engine.perform(last)
    hangs.set()
    assert "groups" in engine.perform(slow) and store.fetched == {"0.jpg": 1, "1.jpg": 1, "2.jpg": 1}


@pytest.fixture
def ahead(joining: PerceiveAnything, store: Store, client: redis.Redis) -> Iterator[Engine]:
    """One picture is answered while two others are opened."""
    engine = store.engine(joining, client)
    now, *after = asked(store, 0, 1, 2, limits=TokenLimits.same(30))
    engine.coming(after)
    wait_until(lambda: all(one.future.done() for one in waiting(engine)._under_way.values()), _HANG_S)
    assert "groups" in engine.perform(now)
    yield engine


def test_the_next_pictures_are_encoded_between_token_steps(
    ahead: Engine, joining: PerceiveAnything, store: Store, client: redis.Redis
) -> None:
    assert ahead.stats()["embeddings_encoded"] == 3 and len(ahead._embeddings.cache) == 1
    after = asked(store, 1, 2)
    ahead.expect(after)
    found = answers(ahead, after)
    assert ahead.stats()["embeddings_encoded"] == 3 and set(store.fetched.values()) == {1}
    assert not any(one["cached"] for one in found) and all(one["seconds"]["encode"] > 0 for one in found)
    fresh = Store(store.folder, client).engine(joining, client)
    for one, alone in zip(found, answers(fresh, after), strict=True):
        assert without_seconds(one) == without_seconds(alone)


def test_what_cannot_be_encoded_ahead_is_tried_in_its_turn(
    joining: PerceiveAnything, store: Store, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode_all = joining.encode_all
    refused: list[int] = []

    def short(images: Any, **named: Any) -> Any:
        if images[0].width == 70 and not refused:
            refused.append(1)
            raise RuntimeError("out of memory")
        return encode_all(images, **named)

    monkeypatch.setattr(joining, "encode_all", short)
    engine = store.engine(joining, client)
    now, after = asked(store, 0, 1, limits=TokenLimits.same(30))
    engine.coming([after])
    wait_until(lambda: all(one.future.done() for one in waiting(engine)._under_way.values()), _HANG_S)
    assert "groups" in engine.perform(now) and refused
    assert "groups" in engine.perform(after) and store.fetched["1.jpg"] == 1


def test_a_worker_looks_at_the_jobs_of_its_next_step(
    store: Store, pam: PerceiveAnything, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = store.engine(pam, client)
    monkeypatch.setattr(engines, "_resident", engine)
    payloads = asked(store, *range(6))
    payloads[1] |= {"picture": str(store.folder / "gone.jpg")}
    expected: list[list[str]] = []
    coming = engine.coming

    def noted(several: Any, now: Any) -> None:
        expected.append([one["request_id"] for one in several])
        coming(several, now)
        if len(expected) == 2:
            # one is withdrawn after it was looked at
            queues.forget(client, jobs[2].id)

    monkeypatch.setattr(engine, "coming", noted)
    jobs = [put(client, BULK, payload) for payload in payloads]
    mine = worker(client)
    client.sadd(PRIVATE, "w")
    mine.work(burst=True)
    assert expected == [["r1"], ["r2"], ["r4"], ["r5"], []]
    values = [answer(client, one).return_value for number, one in enumerate(jobs) if number != 2]
    assert [one.get("error", {}).get("type") for one in values] == [None, PictureNotFound.__name__, None, None, None]
    assert store.fetched["gone.jpg"] == 1 and set(store.fetched.values()) == {1}
    rest = [payload for number, payload in enumerate(payloads) if number != 2]
    for one, alone in zip(values, answers(engine, rest), strict=True):
        assert without_seconds(one) == without_seconds(alone)
    # where others take jobs too, the next ones are theirs
    client.sadd(PRIVATE, "another")
    expected.clear()
    for payload in payloads[3:]:
        put(client, BULK, payload)
    mine = worker(client)
    mine.work(burst=True)
    assert expected == [["r5"], [], []]
