"""What is kept in Redis has its share of bytes: remembered answers the newest, pictures in the queue those in use."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from backend.bulk.local import LocalPictures
from backend.errors import QueueFull
from backend.fetching.pictures import park
from backend.labeling.roles import read_roles
from backend.queueing.blobs import KEY, Blobs
from backend.queueing.connection import connect
from backend.run.embedded_redis import running
from backend.settings import Settings
from backend.tasks import answers as module
from backend.tasks.answers import Answers, Remembered
from backend.tasks.plan import PicturePlan
from tests.http.stack import CONFIG

IMAGE = read_roles(CONFIG).images["image"]
PROJECT = "1.1700000000"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis.Redis]:
    """A Redis that nobody else writes into."""
    settings = Settings(state_dir=tmp_path_factory.mktemp("bounded"))
    with running(settings):
        yield connect(settings)


@pytest.fixture
def client(own: redis.Redis) -> redis.Redis:
    own.flushall()
    return own


def region(name: str, size: int = 1000) -> Remembered:
    return Remembered(id=name, image="image", mask={"size": [1, 1], "rows": "x" * size})


def held(client: redis.Redis) -> int:
    """Bytes of all keys. Not used_memory: it counts what waits for the disk, too, as much as was written meanwhile."""
    pipe = client.pipeline(transaction=False)
    for key in client.scan_iter(count=5000):
        pipe.memory_usage(key, samples=0)
    return sum(pipe.execute())


@pytest.mark.parametrize("regions", [1, 10])
def test_answers_stay_within_their_bytes_and_the_newest_are_kept(client: redis.Redis, regions: int) -> None:
    budget, tasks = 2 << 20, 6000 // regions
    answers = Answers(client, 3600, budget)
    answers.keep(PROJECT, 0, [region("first")])
    assert answers.reviewed("first", "kept") is None and answers.reviewed("first", "changed") == b"kept"
    for task in range(1, tasks):
        answers.keep(PROJECT, task, [region(f"{task}-{i}") for i in range(regions)])
    assert held(client) < budget
    assert not client.exists("pallas:reviewed:first")
    assert answers.get(["first", "1-0"]) == {} and answers.of_task(PROJECT, 1) == []
    for task in range(tasks - 50 // regions, tasks):
        assert len(answers.of_task(PROJECT, task)) == regions
    # and not many fewer than there is room for
    kept = list(client.scan_iter("pallas:answer:*", count=5000))
    assert len(kept) > 0.8 * budget / 2200
    lists = list(client.scan_iter("pallas:answers:*", count=5000))
    assert len(lists) <= len(kept) / regions + 1


def test_a_redis_that_was_started_anew_is_told_how_to_remember(client: redis.Redis) -> None:
    answers = Answers(client, 1000)
    client.script_flush()
    answers.keep(PROJECT, 1, [region("first")], ["clicked"])
    answers.keep(PROJECT, 1, [region("second")], ["again"])
    assert set(answers.get(["first", "second"])) == {"first", "second"}
    assert answers.prompted(1, ["clicked", "again", "other"]) == {"clicked", "again"}
    assert [one.id for one in answers.of_task(PROJECT, 1)] == ["second", "first"]


def test_an_answer_that_is_changed_counts_once(client: redis.Redis) -> None:
    answers = Answers(client, 3600, 20_000)
    for _ in range(200):
        answers.keep(PROJECT, 1, [region("same", 3000)])
        answers.keep("", None, [region("ohne:1 2")])
    assert set(answers.get(["same", "ohne:1 2"])) == {"same", "ohne:1 2"}
    assert int(client.get(module._BYTES) or 0) < 8000


def test_answers_are_forgotten_after_their_time(client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = Answers(client, 3600)
    answers.keep(PROJECT, 1, [region("old")])
    assert list(answers.get(["old"])) == ["old"]
    later = time.time() + 3601
    monkeypatch.setattr("time.time", lambda: later)
    assert answers.get(["old"]) == {} and answers.of_task(PROJECT, 1) == []
    answers.keep(PROJECT, 2, [region("new")])
    assert list(client.scan_iter("pallas:answer:*")) == [b"pallas:answer:new"]
    assert not client.exists(f"pallas:answers:{PROJECT}:1")
    size = client.strlen("pallas:answer:new") + module._OF_REGION + module._OF_TASK
    assert int(client.get(module._BYTES) or 0) == size


def blobs(client: redis.Redis) -> set[str]:
    return {key.decode().removeprefix(KEY) for key in client.scan_iter(f"{KEY}*")}


def data_url(letter: str, size: int) -> str:
    return f"data:image/png;base64,{base64.b64encode(letter.encode() * size).decode()}"


def test_pictures_of_requests_wait_for_room_and_those_of_nobody_make_it(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(picture_queue_bytes=1000)
    first = park(data_url("a", 600), client, settings)
    assert park(data_url("a", 600), client, settings) == first
    with pytest.raises(QueueFull, match="PALLAS_PICTURE_QUEUE_BYTES"):
        park(data_url("b", 600), client, settings)
    park(data_url("c", 300), client, settings)
    assert len(blobs(client)) == 2
    # as old as nobody waits
    client.zadd("pallas:blobs:requests", {f"{first.removeprefix('blob:')} 600": 1})
    monkeypatch.setattr("backend.queueing.blobs._KEPT_S", {"requests": 1e10, "bulk": 900})
    found = Blobs(client, "requests", 1000, 80)
    assert found.take_room({"d": 600}) and first.removeprefix("blob:") not in blobs(client)


def test_one_picture_always_has_room(client: redis.Redis) -> None:
    settings = Settings(picture_queue_bytes=1000)
    park(data_url("a", 5000), client, settings)
    with pytest.raises(QueueFull):
        park(data_url("b", 10), client, settings)


def plan(name: str) -> PicturePlan:
    return PicturePlan(IMAGE, name)


def test_files_of_bulk_jobs_wait_until_others_are_done(client: redis.Redis, tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(name.encode() * 400)
    settings = Settings(picture_queue_bytes=1000)
    one, two = (LocalPictures(settings, client, tmp_path, job) for job in ("j1", "j2"))
    (first,) = one.park("1", [plan("a.png")])
    assert one.park("2", [plan("a.png"), plan("https://x/y.png")])[0].picture == first.picture
    two.park("1", [plan("b.png")])
    for local in (one, two):
        with pytest.raises(QueueFull, match="room in Redis"):
            local.park("3", [plan("c.png")])
    # clicks have a share of their own
    park(data_url("a", 600), client, settings)
    one.release("1")
    assert len(blobs(client)) == 3  # another task has the same file
    one.release("2")
    one.release("2")
    assert len(blobs(client)) == 2
    one.park("3", [plan("c.png")])
    one.close()
    two.release("1")
    assert len(blobs(client)) == 1 and client.zcard("pallas:blobs:bulk") == 0


def test_a_task_of_several_files_goes_alone_or_waits(client: redis.Redis, tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(name.encode() * 600)
    local = LocalPictures(Settings(picture_queue_bytes=1000), client, tmp_path, "j")
    local.park("1", [plan("a.png")])
    both = [plan("b.png"), plan("c.png")]
    with pytest.raises(QueueFull):
        local.park("2", both)
    assert len(blobs(client)) == 1
    local.release("1")
    assert len(local.park("2", both)) == 2 and len(blobs(client)) == 2


def test_what_redis_has_lost_is_put_there_again(client: redis.Redis, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"a")
    local = LocalPictures(Settings(), client, tmp_path, "j")
    local.park("1", [plan("a.png")])
    client.flushall()
    local.renew()
    assert blobs(client) == set()
    local.park("2", [plan("a.png")])
    assert len(blobs(client)) == 1
    (name,) = blobs(client)
    client.expire(KEY + name, 5)
    local.renew()
    assert client.ttl(KEY + name) > 100
