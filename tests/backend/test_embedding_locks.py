"""A picture that another worker is encoding is waited for: real processes on a real Redis."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import redis
import torch
from PIL import Image

from backend.settings import Settings
from backend.worker.embedding_locks import EmbeddingLocks
from model import Embedding
from tests.waiting import wait_until

_WORKER = """
import gc
gc.disable()  # importing takes a quarter less
import json, sys, time
import redis
from backend.worker.embedding_locks import EmbeddingLocks
from backend.worker.embeddings import Embeddings
from backend.fetching.pictures import PictureStore
from backend.queueing.connection import connect
from backend.settings import Settings
from model import PerceiveAnything

state, checkpoint, picture, pause = sys.argv[1:]
settings = Settings(state_dir=state, local_roots=picture.rsplit("/", 1)[0])
client = connect(settings, blocking=True)
from model.compute.clock import Span
pam = PerceiveAnything.from_pretrained(checkpoint, device="cpu")
embeddings = Embeddings(settings, pam, PictureStore(settings, client), EmbeddingLocks(client, pam.version, 600))
embeddings.look([])
original = pam.encode_all
def slow(images, **options):
    client.incr("encoding")
    time.sleep(float(pause))
    return original(images, **options)
pam.encode_all = slow
embeddings._latest = Span(0.0, 1.0)
client.incr("there")
while int(client.get("there")) < 2:
    time.sleep(0.005)
begin = time.perf_counter()
(seen,) = embeddings.look([picture])
print(json.dumps({
    "stats": embeddings.stats(), "seconds": time.perf_counter() - begin,
    "sum": float(seen.embedding.features.double().sum()), "again": embeddings.look([picture])[0].cached,
}))
"""


def start(settings: Settings, checkpoint: Path, picture: Path, pause: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _WORKER, str(settings.state_dir), str(checkpoint), str(picture), str(pause)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def result(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate(timeout=590)
    assert process.returncode == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


@pytest.fixture
def settings(client: redis.Redis, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    client.flushall()
    return Settings(state_dir=Path(client.connection_pool.connection_kwargs["path"]).parent)


@pytest.fixture
def picture(tmp_path: Path, coffee: Image.Image) -> Path:
    coffee.save(tmp_path / "coffee.png")
    return tmp_path / "coffee.png"


def test_two_workers_encode_a_picture_once(settings: Settings, small_checkpoint: Path, picture: Path) -> None:
    both = [result(process) for process in [start(settings, small_checkpoint, picture, 1.0) for _ in range(2)]]
    assert sorted(one["stats"]["embeddings_encoded"] for one in both) == [0, 1]
    assert sorted(one["stats"]["embeddings_received"] for one in both) == [0, 1]
    assert both[0]["sum"] == both[1]["sum"] and both[0]["again"] and both[1]["again"]


def test_who_waits_for_a_worker_that_dies_goes_on_alone(
    settings: Settings, client: redis.Redis, small_checkpoint: Path, picture: Path
) -> None:
    victim = start(settings, small_checkpoint, picture, 60)
    wait_until(lambda: client.get("there"))
    client.incr("there")
    wait_until(lambda: client.get("encoding"))
    other = start(settings, small_checkpoint, picture, 0)
    wait_until(lambda: client.llen(next(iter(client.keys("pallas:encoding:*")))) >= 2)
    victim.kill()
    victim.communicate()
    found = result(other)
    assert found["stats"]["embeddings_encoded"] == 1 and found["stats"]["embeddings_received"] == 0
    assert 1.9 < found["seconds"] < 300  # not until the lock is forgotten
    assert not client.keys("pallas:encoding:*")


def embedding() -> Embedding:
    return Embedding(30, 20, torch.randn(1, 4, 2, 2), (torch.randn(1, 2, 8, 8), torch.randn(1, 3, 4, 4)))


def test_an_embedding_is_handed_to_all_who_wait(client: redis.Redis) -> None:
    client.flushall()
    locks = [EmbeddingLocks(client, "v", 60) for _ in range(3)]
    tickets = [one.take("a") for one in locks]
    assert tickets[0] is None and all(tickets[1:]) and locks[0].take("b") is None
    assert EmbeddingLocks(client, "another version", 60).take("a") is None
    made = embedding()
    locks[0].done("a", made)
    for one, ticket in zip(locks[1:], tickets[1:], strict=True):
        handed = one.wait("a", str(ticket), 1)
        assert handed is not None and (handed.width, handed.height) == (30, 20)
        assert torch.equal(handed.features, made.features)
        assert all(map(torch.equal, handed.high_resolution, made.high_resolution))
    assert locks[1].take("a") is None  # the lock is gone


def test_a_picture_that_cannot_be_encoded_is_nobodys(client: redis.Redis) -> None:
    client.flushall()
    one, other = EmbeddingLocks(client, "v", 60), EmbeddingLocks(client, "v", 60)
    assert one.take("a") is None
    ticket = other.take("a")
    one.done("a", None)
    begin = time.monotonic()
    assert ticket is not None and other.wait("a", ticket, 120) is None
    assert time.monotonic() - begin < 60


def test_without_redis_everybody_encodes(tmp_path: Path) -> None:
    nowhere = redis.Redis(unix_socket_path=str(tmp_path / "none.sock"))
    locks = EmbeddingLocks(nowhere, "v", 60)
    assert locks.take("a") is None
    locks.done("a", embedding())
    assert locks.wait("a", "ticket", 1) is None


def test_bytes_that_are_no_embedding_are_refused() -> None:
    for data in (b"", b"x" * 100, embedding().to_bytes()[:-5]):
        with pytest.raises(ValueError, match="no embedding"):
            Embedding.from_bytes(data)
