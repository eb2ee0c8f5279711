"""Large pictures in a worker: crops live in its cache, pixels are kept within bounds, and fetched again where not."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import redis
from PIL import Image, ImageDraw

from backend.fetching.pictures import PictureStore
from backend.job import Group, JobReply, JobRequest, RegionPrompt
from backend.settings import Settings
from backend.worker.embedding_locks import EmbeddingLocks
from backend.worker.embeddings import Embeddings
from backend.worker.engine import Engine
from model import Embedding, PerceiveAnything, Region
from model.values.mask import from_rle, mask_box
from tests.device import DEVICE

SIZE = (2600, 1800)


class Worker:
    """An engine over one folder with one large picture."""

    def __init__(self, pam: PerceiveAnything, folder: Path, client: redis.Redis, **changes: Any) -> None:
        self.picture = folder / "large.png"
        if not self.picture.exists():
            draw(self.picture, 7)
        settings = Settings(local_roots=(folder,), **changes)
        self.store = PictureStore(settings, client)
        self.fetched = 0
        fetch = self.store.fetch

        def counted(reference: str) -> bytes:
            self.fetched += 1
            return fetch(reference)

        self.store.fetch = counted  # type: ignore[method-assign]
        self.engine = Engine(
            settings, pam, Embeddings(settings, pam, self.store, EmbeddingLocks(client, pam.version, 60))
        )

    def ask(self, *boxes: tuple[float, float, float, float], **group: Any) -> dict[str, Any]:
        prompts = tuple(RegionPrompt(box=box) for box in boxes)
        groups = (Group(prompts=prompts, **group),) if boxes or group else ()
        request = JobRequest(request_id="r", picture=str(self.picture), groups=groups, sent_at=time.time())
        return self.engine.perform(request.model_dump(mode="json"))


PLACES = ((300, 220), (2100, 1300), (900, 900), (1500, 300), (400, 1500))
SMALL, OTHER, *_ = BOXES = [
    (100 * (x - 20) / SIZE[0], 100 * (y - 20) / SIZE[1], 100 * (x + 20) / SIZE[0], 100 * (y + 20) / SIZE[1])
    for x, y in PLACES
]


def draw(path: Path, seed: int) -> None:
    """Discs of twenty pixels' radius."""
    image = Image.new("RGB", SIZE, (120, 150, 110 + seed))
    for x, y in PLACES:
        ImageDraw.Draw(image).ellipse((x - 20, y - 20, x + 20, y + 20), fill=(210, 60, 40))
    image.save(path)


@pytest.fixture(scope="module")
def pam() -> PerceiveAnything:
    return PerceiveAnything.from_pretrained("tiny", device=DEVICE)


def test_a_click_looks_closer_and_the_next_one_has_the_crop(
    pam: PerceiveAnything, tmp_path: Path, client: redis.Redis
) -> None:
    worker = Worker(pam, tmp_path, client)
    worker.ask()
    one = worker.engine.stats()["embedding_bytes"]
    assert worker.engine.stats()["picture_bytes"] == 3 * SIZE[0] * SIZE[1] and worker.fetched == 1
    reply = JobReply.model_validate(worker.ask(SMALL))
    (region,) = reply.groups[0]
    mask = from_rle(region.mask)
    assert mask.shape == (SIZE[1], SIZE[0]) and mask.sum() == region.area
    x1, y1, x2, y2 = mask_box(mask) or (0, 0, 0, 0)
    assert x2 - x1 < 60 and y2 - y1 < 60
    assert worker.engine.stats()["embedding_bytes"] == 2 * one
    worker.ask(SMALL)
    assert worker.engine.stats()["embedding_bytes"] == 2 * one
    # the picture counts as found, its crops are nobody's hits
    assert (worker.engine.stats()["embedding_hits"], worker.engine.stats()["embedding_misses"]) == (2, 1)
    assert worker.fetched == 1


def test_crops_do_not_drive_out_the_picture(pam: PerceiveAnything, tmp_path: Path, client: redis.Redis) -> None:
    probe = Worker(pam, tmp_path, client)
    probe.ask()
    one = int(probe.engine.stats()["embedding_bytes"])
    worker = Worker(pam, tmp_path, client, embedding_cache_bytes=2 * one)
    worker.ask(*BOXES)
    assert worker.engine.stats()["embedding_bytes"] == 2 * one
    assert worker.ask()["cached"] is True


def test_pixels_that_are_not_kept_are_fetched_again(pam: PerceiveAnything, tmp_path: Path, client: redis.Redis) -> None:
    kept, anew = Worker(pam, tmp_path, client), Worker(pam, tmp_path, client, picture_cache_bytes=1000)
    answers = [worker.ask(SMALL)["groups"] for worker in (kept, anew)]
    assert answers[0] == answers[1]
    assert (kept.fetched, anew.fetched) == (1, 2) and anew.engine.stats()["picture_bytes"] == 0


def test_another_picture_at_the_same_address_is_said_once(
    pam: PerceiveAnything, tmp_path: Path, client: redis.Redis
) -> None:
    worker = Worker(pam, tmp_path, client, picture_cache_bytes=1000)
    worker.ask()
    draw(worker.picture, 8)
    error = worker.ask(SMALL)["error"]
    assert error["type"] == "PictureExpired" and "changed" in error["message"]
    assert "groups" in worker.ask(SMALL)


def test_it_can_be_turned_off(pam: PerceiveAnything, tmp_path: Path, client: redis.Redis) -> None:
    off, on = Worker(pam, tmp_path, client, large_side=0), Worker(pam, tmp_path, client)
    whole, crop = off.ask(SMALL, OTHER), on.ask(SMALL, OTHER)
    assert off.engine.stats()["picture_bytes"] == 0
    assert whole["groups"] != crop["groups"]


def test_proposals_look_at_so_many_tiles(
    pam: PerceiveAnything, tmp_path: Path, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, int]] = []

    def propose(_: Embedding, **limits: int) -> list[Region]:
        asked.append(limits)
        return []

    monkeypatch.setattr(pam, "propose", propose)
    Worker(pam, tmp_path, client, max_tiles=5, max_proposals=9).ask(propose=True)
    assert asked == [{"limit": 9, "max_tiles": 5}]
