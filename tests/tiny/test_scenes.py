"""Scenes: the same seed gives the same scene, and the truth is true of the picture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.values.mask import from_rle
from tiny import looks
from tiny.__main__ import main
from tiny.art import Catalog
from tiny.scenes import Painter


def test_same_seed_same_scene(catalog: Catalog) -> None:
    first, second = (Painter(catalog, "train", 3).scene(5) for _ in range(2))
    assert np.array_equal(first.picture, second.picture)
    assert [t.truth for t in first.things] == [t.truth for t in second.things]
    assert all(np.array_equal(a.mask, b.mask) for a, b in zip(first.things, second.things, strict=True))


@pytest.mark.parametrize(("split", "seed"), [("test", 3), ("train", 4)])
def test_other_split_or_seed_other_scene(catalog: Catalog, split: str, seed: int) -> None:
    first = Painter(catalog, "train", 3).scene(5, (200, 160))
    second = Painter(catalog, split, seed).scene(5, (200, 160))
    assert not np.array_equal(first.picture, second.picture)


@pytest.mark.parametrize("number", range(12))
def test_truth_is_true(catalog: Catalog, number: int) -> None:
    scene = Painter(catalog, "train", 1).scene(number)
    height, width = scene.picture.shape[:2]
    covered = np.zeros((height, width), int)
    for thing in scene.things:
        assert thing.mask.shape == (height, width) and thing.mask.any()
        covered += thing.mask
        assert thing.truth.colour == looks.colour_of(scene.picture[thing.mask])
        assert thing.truth.place == looks.place_of(thing.mask)
        left, top, right, bottom = looks.box_of(thing.mask)
        assert thing.mask[top:bottom, left:right].sum() == thing.mask.sum()
    assert covered.max() <= 1, "visible masks overlap"


def _at_the_edge(painter: Painter) -> float:
    """Share of the things of sixty scenes whose box's middle is nearer to an edge than 0.3 of its longer side: where
    a thing is whole, that is half of its side there."""
    found = []
    for number in range(60):
        scene = painter.scene(number, (240, 240))
        for thing in scene.things:
            left, top, right, bottom = looks.box_of(thing.mask)
            x, y = (left + right) / 2, (top + bottom) / 2
            found.append(min(x, y, 240 - x, 240 - y) < 0.3 * max(right - left, bottom - top))
    return float(np.mean(found))


def test_only_scenes_to_learn_from_cut_things_off(catalog: Catalog) -> None:
    learning, held_out = (_at_the_edge(Painter(catalog, split, 1)) for split in ("train", "test"))
    assert learning > 0.08 and learning > 2 * held_out


def test_splits_use_their_own_drawings(catalog: Catalog) -> None:
    allowed = {"val": "train"}
    for split in ("train", "val", "test", "transfer"):
        files = {d.file for d in catalog.drawings if d.split == allowed.get(split, split)}
        painter = Painter(catalog, split, 0)
        used = {thing.source for number in range(8) for thing in painter.scene(number).things} - {"blob"}
        assert used
        assert used <= files


def test_unknown_split_is_refused(catalog: Catalog) -> None:
    with pytest.raises(ValueError, match="not one of train, val, test, transfer"):
        Painter(catalog, "testing", 0)


def test_command_writes_pictures_and_truth(catalog: Catalog, tmp_path: Path) -> None:
    arguments = ["scenes", "--count", "3", "--out", str(tmp_path), "--split", "test", "--seed", "7"]
    assert main([*arguments, "--art", str(catalog.root)]) == 0
    truth = json.loads((tmp_path / "truth.json").read_text())
    assert (truth["split"], truth["seed"], len(truth["scenes"])) == ("test", 7, 3)
    for scene in truth["scenes"]:
        picture = Image.open(tmp_path / scene["file"])
        assert picture.size == (scene["width"], scene["height"])
        for thing in scene["things"]:
            mask = from_rle(thing["mask"])
            assert mask.shape == picture.size[::-1]
            assert list(looks.box_of(mask)) == thing["box"]
            assert thing["colour"] in looks.COLOURS and thing["place"] in looks.PLACES


def test_command_without_art(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scenes", "--out", str(tmp_path / "out"), "--art", str(tmp_path)]) == 2
    assert "python -m tiny art" in capsys.readouterr().err
