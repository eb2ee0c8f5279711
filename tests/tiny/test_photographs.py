"""Regions of photographs: found, kept, named where it is sure, and learned from together with what is pasted."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from tests.tiny.conftest import package_weights
from tiny import album, clicks, naming, photographs, regions, resources, trunk
from tiny.album import Album
from tiny.art import Catalog, kinds
from tiny.batch import MEAN, STD
from tiny.looks import UNKNOWN
from tiny.packages import LABELLED, PHOTOGRAPHS
from tiny.photographs import View
from tiny.texts import Truth, write
from tiny.trunk import Pretrained

SIDE = 64


@pytest.fixture(scope="module")
def pretrained(seen: Catalog) -> Pretrained:
    return trunk.known(seen.root)


def two_things() -> tuple[np.ndarray, np.ndarray]:
    """A picture of a red and a blue thing on grey, and the red one's mask."""
    picture = np.full((96, 96, 3), 90, np.uint8) + np.random.default_rng(0).integers(0, 9, (96, 96, 3), dtype=np.uint8)
    picture[20:70, 10:45] = (210, 40, 40)
    picture[40:80, 60:90] = (40, 60, 210)
    mask = np.zeros((96, 96), bool)
    mask[20:70, 10:45] = True
    return picture, mask


def test_the_trunk_sees_pixels_as_the_package_did(pretrained: Pretrained) -> None:
    """It was trained on (pixel - 127) / 128; ours takes SAM 2's normalisation."""
    tensors = package_weights()
    pixels = torch.randint(0, 256, (1, 3, 32, 32)).float()
    plain = functional.conv2d((pixels - 127) / 128, tensors["_conv_stem.weight"], stride=2)
    mean, variance, weight, bias = (tensors[f"_bn0.{p}"] for p in ("running_mean", "running_var", "weight", "bias"))
    wanted = functional.batch_norm(plain, mean, variance, weight, bias, eps=1e-3)
    ours = pretrained.trunk.stem((pixels / 255 - MEAN[:, None, None]) / STD[:, None, None])
    torch.testing.assert_close(ours[..., : wanted.shape[2], : wanted.shape[3]], wanted, atol=1e-4, rtol=1e-4)
    assert pretrained.classifier(pretrained.trunk(torch.randn(2, 3, 64, 64))[-1]).shape == (2, 1000)


def test_packages_to_measure_with_are_fetched_and_not_learned_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpacked: list[str] = []

    def unpack(package: str, folder: Path) -> None:
        unpacked.append(package)
        inside = folder / (PHOTOGRAPHS | LABELLED)[package]
        inside.mkdir(parents=True)
        Image.effect_noise((300, 300), 90).save(inside / "noise.jpg", quality=95)

    monkeypatch.setattr(photographs, "unpack_deb", unpack)
    files = photographs.fetch(tmp_path)
    assert sorted(unpacked) == sorted(PHOTOGRAPHS | LABELLED) and not PHOTOGRAPHS.keys() & LABELLED
    assert {file.parent.name for file in files} == set(PHOTOGRAPHS)
    assert photographs.fetch(tmp_path) == files and len(unpacked) == len(PHOTOGRAPHS | LABELLED)


def test_things_of_one_colour_are_regions(pretrained: Pretrained) -> None:
    picture, mask = two_things()
    found = regions.propose(picture, pretrained.trunk, 64)
    assert 2 <= len(found) <= 20
    assert max(clicks.iou(mask, region.mask) for region in found) > 0.85
    pairs = [(a, b) for i, a in enumerate(found) for b in found[:i]]
    assert all(clicks.iou(a.mask, b.mask) < 0.9 for a, b in pairs)


def test_grabcut_draws_the_edge_where_the_region_stays_the_same() -> None:
    picture, mask = two_things()
    rough = np.roll(mask, 2, axis=1)
    assert clicks.iou(regions.refined(picture, rough), mask) > clicks.iou(rough, mask)
    other = np.zeros_like(mask)
    other[0:50, 0:50] = True  # no thing at all: it must not become one
    assert clicks.iou(regions.refined(picture, other), other) > 0.7


def test_what_was_made_is_read_again_and_not_made_anew(seen: Catalog) -> None:
    files = photographs.listed(seen.root)
    kept = [photographs.stored(seen.root, SIDE, held) for held in (False, True)]
    assert len(kept[0]) + len(kept[1]) == len(files) == 24
    assert not set(kept[0]) & set(kept[1]) and kept[1]
    view = photographs.read(kept[0][0])
    assert view.picture.shape == (SIDE, SIDE, 3) and view.masks.shape[1:] == (SIDE, SIDE)
    assert len(view.masks) == len(view.agreed) > 0
    assert list(photographs.make(seen.root, 1, SIDE)) == [] and photographs.waiting(seen.root, 2, SIDE) == 24


def test_a_damaged_file_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(ValueError, match="delete it"):
        photographs.read(tmp_path / "a.npz")


class _Pictures(nn.Module):
    """A trunk whose only map is the picture, coarser."""

    def forward(self, pictures: Tensor) -> list[Tensor]:
        return [functional.avg_pool2d(pictures, 32)]


class _Red(nn.Module):
    """Says tiger (292) where much of what it looks at is red."""

    def forward(self, last: Tensor, weights: Tensor | None = None) -> Tensor:
        share = torch.ones_like(last[:, :1]) if weights is None else weights
        red = ((last[:, :1] - last[:, 2:]) * share).sum((1, 2, 3)) / share.sum((1, 2, 3))
        logits = torch.zeros(len(last), 1000)
        logits[:, 292] = 40 * (red - 0.9)
        return logits


def test_a_name_is_given_to_the_thing_and_not_to_what_lies_about_it() -> None:
    picture, mask = two_things()
    part = mask & (np.arange(96)[:, None] < 45)
    around = ~mask
    view = View(picture, np.stack([mask, part, around]), np.ones(3, np.float32))
    seeing = Pretrained(_Pictures(), _Red())  # type: ignore[arg-type]
    sure = naming.chances(seeing, view)
    assert sure.shape == (3, len(kinds())) and sure[0, list(kinds()).index("tiger")] > 0.4
    assert naming.names(view, sure) == ["tiger", UNKNOWN, UNKNOWN]


def test_no_class_of_the_thousand_belongs_to_two_of_ours() -> None:
    numbers = [number for kind in kinds().values() for number in kind.seen]
    assert len(numbers) == len(set(numbers)) > 600 and min(numbers) >= 0 and max(numbers) < 1000


def test_names_are_kept_beside_the_regions(seen: Catalog) -> None:
    files = photographs.stored(seen.root, SIDE, held=False)[:2]
    first = naming.book(seen.root, files)
    assert set(first) >= {file.stem for file in files}
    kept = naming._kept(seen.root)
    kept.write_text(kept.read_text() + '["cut o')  # stopped in the middle of a line
    assert naming.told(seen.root) == first
    kept.unlink()


def name_all(shown: Album, names: Callable[[int], list[str]]) -> None:
    shown.names = {file.stem: names(len(photographs.read(file).masks)) for file in shown.files}


def test_a_batch_of_photographs(seen: Catalog) -> None:
    shown = Album(seen, SIDE)
    name_all(shown, lambda count: ["dog"] * count)
    batch = shown.batch(np.random.default_rng(0), 4, 3, SIDE)
    assert batch.pictures.shape == (4, 3, SIDE, SIDE) and batch.masks.shape == (12, SIDE, SIDE)
    assert batch.of_photographs and (batch.cells == -1).all()
    assert {truth.kind for truth in batch.truths} <= {"dog", UNKNOWN} and "dog" in {t.kind for t in batch.truths}
    assert all(mask.any() for mask in batch.masks)
    smaller = shown.batch(np.random.default_rng(0), 2, 3, 32)
    assert smaller.masks.shape == (6, 32, 32)


def test_named_regions_may_be_asked_for_more_often(seen: Catalog) -> None:
    shown = Album(seen, SIDE)
    name_all(shown, lambda count: ["dog", *[UNKNOWN] * count][:count])

    def share(known: float) -> float:
        told = shown.batch(np.random.default_rng(1), 40, 1, SIDE, known).truths
        return sum(truth.kind == "dog" for truth in told) / len(told)

    assert share(50.0) > share(1.0) + 0.2


def test_what_is_pasted_takes_on_the_light_and_hides_what_is_below() -> None:
    rng = np.random.default_rng(3)
    canvas = np.full((128, 128, 3), 30, np.float32)
    cut = np.full((40, 40, 4), 255, np.uint8)
    lights = []
    for _ in range(20):
        mixed, mask = album._paste(rng, canvas, cut)
        if mask.any():
            assert not np.array_equal(mixed[mask], canvas[mask])
            lights.append(float(mixed[mask].mean()))
    assert min(lights) < 235  # white on black comes down towards it


def test_nothing_is_said_to_be_near_where_that_is_not_known() -> None:
    for language in ("en", "zh"):
        known, unknown = (
            write("detailed", Truth("dog", "brown", "in the middle", "large", None, s), language) for s in (True, False)
        )
        assert known.startswith(unknown[:-1]) and len(unknown) < len(known)


def test_no_regions_says_how_to_make_them(catalog: Catalog, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--stage regions"):
        Album(Catalog(tmp_path, catalog.drawings, catalog.backgrounds), SIDE)


def _resource(name: str, body: bytes, flags: int) -> bytes:
    """A resource file of version 1 with one folder that holds one entry."""
    names = b""
    places = []
    for text in ("folder", name):
        places.append(len(names))
        names += struct.pack(">HI", len(text), 0) + text.encode("utf-16-be")
    data = struct.pack(">I", len(body)) + body
    tree = struct.pack(">IHII", 0, 2, 1, 1) + struct.pack(">IHII", places[0], 2, 1, 2)
    tree += struct.pack(">IHHHI", places[1], flags, 0, 0, 0)
    start = 20
    return (
        b"qres" + struct.pack(">4I", 1, start, start + len(tree), start + len(tree) + len(data)) + tree + data + names
    )


@pytest.mark.parametrize("flags", [0, 1])
def test_resources_are_unpacked(flags: int, tmp_path: Path) -> None:
    body = b"a picture" * 50
    packed = struct.pack(">I", len(body)) + zlib.compress(body) if flags else body
    (tmp_path / "a.rcc").write_bytes(_resource("bee.webp", packed, flags))
    assert list(resources.entries(tmp_path / "a.rcc")) == [("folder/bee.webp", body)]
    (tmp_path / "b.rcc").write_bytes(b"something else")
    with pytest.raises(ValueError, match="not a Qt"):
        list(resources.entries(tmp_path / "b.rcc"))
