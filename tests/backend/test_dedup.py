from __future__ import annotations

import threading
import time

import pytest
import redis

from backend.predict.dedup import Dedup
from tests.waiting import HANG_S


def test_who_asks_the_same_meanwhile_waits_for_the_answer(client: redis.Redis) -> None:
    client.flushall()
    dedup = Dedup(client, 10)
    first = dedup.begin("question")
    assert first is not None
    finished: list[float] = []

    def second() -> None:
        assert dedup.begin("question") is None
        finished.append(time.monotonic())

    asker = threading.Thread(target=second)
    with first:
        asker.start()
        other = dedup.begin("another question")
        assert other is not None
        time.sleep(0.3)
        assert not finished
        done = time.monotonic()
    asker.join(HANG_S)
    assert finished and finished[0] > done


def test_after_a_failure_the_next_one_tries_again(client: redis.Redis) -> None:
    client.flushall()
    dedup = Dedup(client, 10)
    first = dedup.begin("question")
    assert first is not None
    with pytest.raises(RuntimeError), first:
        raise RuntimeError
    assert dedup.begin("question") is not None


def test_who_waits_for_one_that_fails_tries_in_its_place(client: redis.Redis) -> None:
    client.flushall()
    dedup = Dedup(client, 60)
    first = dedup.begin("question")
    assert first is not None
    second: list[object] = []
    asker = threading.Thread(target=lambda: second.append(dedup.begin("question")))
    with pytest.raises(RuntimeError), first:
        asker.start()
        raise RuntimeError
    asker.join(HANG_S)
    assert second and second[0] is not None


def test_who_took_longer_than_the_lock_lasts_leaves_the_next_one_alone(client: redis.Redis) -> None:
    client.flushall()
    dedup = Dedup(client, 10)
    first = dedup.begin("question")
    assert first is not None
    with first:
        client.delete("pallas:asked:question")
        second = dedup.begin("question")
        assert second is not None
    with second:
        assert client.exists("pallas:asked:question")
