from __future__ import annotations

import psutil
import pytest
import torch

from backend.job import PointPrompt, RegionPrompt
from backend.worker.cut import to_pixels
from backend.worker.embedding_cache import Addresses, EmbeddingCache
from model import Embedding


def embedding(floats: int) -> Embedding:
    return Embedding(1, 1, torch.zeros(floats), (torch.zeros(0), torch.zeros(0)))


def test_the_shelf_keeps_to_its_bytes_and_drops_the_oldest() -> None:
    cache = EmbeddingCache(limit_bytes=400)
    for key in "abc":
        cache.put(key, embedding(40))
        assert cache.get("a") is not None or key == "c"
        assert cache.nbytes <= 400
    # "a" was used last, so "b" had to go
    assert cache.get("a") is not None and cache.get("b") is None and cache.get("c") is not None
    cache.put("huge", embedding(200))
    assert cache.get("huge") is None and len(cache) == 2 and cache.nbytes == 320


def test_what_the_device_has_no_room_for_goes_to_host_memory() -> None:
    cache = EmbeddingCache(limit_bytes=400, host_bytes=480)
    for key in "abcd":
        cache.put(key, embedding(40))
    assert (cache.nbytes, cache.host_nbytes, len(cache)) == (320, 320, 4)
    assert cache.stats.evictions == 0
    # "a" comes back, and what was used longest ago makes room for it
    assert cache.get("a") is not None and (cache.nbytes, cache.host_nbytes) == (320, 320)
    for key in "ef":
        cache.put(key, embedding(40))
    assert cache.nbytes <= 400 and cache.host_nbytes <= 480
    assert cache.stats.evictions == 6 - len(cache)
    assert cache.get("nothing") is None
    assert (cache.stats.hits, cache.stats.misses) == (1, 1)


def test_ten_thousand_pictures_do_not_make_it_grow() -> None:
    cache = EmbeddingCache(limit_bytes=4000, host_bytes=2000)
    for number in range(10_000):
        cache.put(str(number), embedding(10))
    assert cache.nbytes <= 4000 and cache.host_nbytes <= 2000 and len(cache) == 150
    assert cache.stats.evictions == 10_000 - 150


def test_percentages_become_pixels() -> None:
    prompt = to_pixels(RegionPrompt(points=(PointPrompt(x=50, y=100, positive=False),), box=(0, 25, 50, 100)), 640, 400)
    assert prompt.points == ((320, 400, 0),) and prompt.box == (0, 100, 320, 400)


def test_an_address_is_believed_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("backend.worker.embedding_cache.time.monotonic", lambda: now[0])
    addresses = Addresses(believed_s=10, most=3)
    addresses.put("a", "1")
    now[0] = 9.0
    assert addresses.get("a") == "1" and addresses.get("b") is None
    now[0] = 10.0
    assert addresses.get("a") is None
    for name in "bcde":
        addresses.put(name, name)
    assert [addresses.get(name) for name in "bcde"] == [None, "c", "d", "e"]
    assert Addresses(believed_s=0).get("a") is None


def test_resident_memory_does_not_grow_over_ten_thousand_pictures() -> None:
    """Measured, not summed up: embeddings of 256 KB each, 2.6 GB in all, on a cache of 20 MB."""
    cache, addresses = EmbeddingCache(limit_bytes=20 << 20), Addresses(believed_s=300, most=1000)
    process = psutil.Process()
    early = 0
    for number in range(10_000):
        addresses.put(f"http://host/{number}.jpg", str(number))
        made = Embedding(1, 1, torch.full((1 << 16,), float(number)), (torch.zeros(0), torch.zeros(0)))
        cache.put(str(number), made)
        if number == 1000:
            early = process.memory_info().rss
    assert cache.nbytes <= 20 << 20 and cache.stats.evictions == 10_000 - 80
    assert process.memory_info().rss - early < 40 << 20
