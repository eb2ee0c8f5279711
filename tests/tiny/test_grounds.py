from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tiny import grounds, pool
from tiny.art import Catalog
from tiny.batch import NAMES, batch_of
from tiny.looks import UNKNOWN
from tiny.scenes import Painter
from tiny.texts import Truth


def picture_and_owner() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Sky over a meadow a quarter high, a thing on the border of both."""
    picture = np.zeros((128, 128, 3), np.uint8)
    picture[:96] = (90, 150, 240)
    picture[96:] = (40, 160, 40)
    owner = np.zeros((128, 128), np.uint8)
    owner[80:110, 20:60] = 1
    picture[owner == 1] = (220, 30, 30)
    return picture, owner


def test_part_is_one_surface_of_the_ground() -> None:
    picture, owner = picture_and_owner()
    found = [grounds.part(np.random.default_rng(seed), picture, owner) for seed in range(20)]
    kept = [row for row in found if row is not None]
    assert len(kept) >= 5
    for mask, truth in kept:  # the sky is too large a part
        assert truth.kind == UNKNOWN
        assert truth.colour == "green"
        assert truth.place == "at the bottom"
        assert not mask[owner > 0].any()
        assert mask[100:124, 70:120].mean() > 0.95


def test_nothing_without_ground() -> None:
    picture, _ = picture_and_owner()
    assert grounds.part(np.random.default_rng(0), picture, np.ones((128, 128), np.uint8)) is None


def test_batches_take_their_share_of_grounds(catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "SHARD", 8)
    pool.draw(Painter(catalog, "train", 0), tmp_path, 0, 128)
    scenes = pool.Pool(tmp_path)
    calls: list[int] = []

    def bare(
        rng: np.random.Generator, picture: NDArray[np.uint8], owner: NDArray[np.uint8]
    ) -> tuple[NDArray[np.bool_], Truth]:
        calls.append(1)
        return owner == 0, Truth(UNKNOWN, "grey", "in the middle", "large")

    monkeypatch.setattr(grounds, "part", bare)
    batch = batch_of(np.random.default_rng(0), scenes, 8, 3, 128, ground=0.5)
    assert 4 <= len(calls) <= 20
    strange = batch.kind == NAMES.index(UNKNOWN)
    assert int(strange.sum()) >= len(calls)
    before = len(calls)
    batch_of(np.random.default_rng(0), scenes, 8, 3, 128)
    assert len(calls) == before
