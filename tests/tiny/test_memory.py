"""Learning to remember changes nothing that pictures need, and begins as if there were no memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sam2.modeling.sam2_base import SAM2Base

from model.sam.tower import Tower
from tiny import memory, segmentation
from tiny.art import Catalog
from tiny.clips import SEEN, Director
from tiny.place import Place, sam2
from tiny.scenes import Painter

TINY = Path(__file__).parents[2] / "model" / "checkpoints" / "tiny"


@pytest.fixture(scope="module")
def films(catalog: Catalog, tmp_path_factory: pytest.TempPathFactory) -> memory.Films:
    return memory.draw(Director(Painter(catalog, "train", 1)), tmp_path_factory.mktemp("films"), 4, 128)


@pytest.fixture
def sam(tmp_path: Path) -> SAM2Base:
    found = sam2(Place(tmp_path, tmp_path, TINY), TINY).eval()
    segmentation.at_size(found, 128)
    return found


def test_films_are_drawn_once(catalog: Catalog, tmp_path: Path) -> None:
    director = Director(Painter(catalog, "train", 1))
    first = memory.draw(director, tmp_path, 1, 64)
    again = memory.draw(Director(Painter(catalog, "train", 9)), tmp_path, 1, 64)
    assert np.array_equal(first.frames, again.frames) and first.truths == again.truths
    assert first.acts[0][0].first == 0
    assert set(np.unique(first.owners)) <= set(range(first.things[0] + 1))


def test_pieces_begin_with_the_thing(films: memory.Films) -> None:
    piece = memory.scraps(np.random.default_rng(0), films, 6, 4)
    assert piece.pictures.shape == (4, 6, 3, 128, 128)
    assert (piece.masks[0].sum((1, 2)) >= SEEN).all()


def test_without_anything_learned_features_pass(sam: SAM2Base, catalog: Catalog, tmp_path: Path) -> None:
    # at the size that the shipped encoder was trained for: how much is kept depends on its features
    segmentation.at_size(sam, 256)
    films = memory.draw(Director(Painter(catalog, "train", 1)), tmp_path / "films", 4, 256)
    piece = memory.scraps(np.random.default_rng(0), films, 4, 2)
    pictures = piece.pictures.flatten(0, 1)
    kept = memory.begin(sam, pictures)
    assert kept > 0.9
    with torch.no_grad():
        top = sam.forward_image(pictures)["backbone_fpn"][-1]
        seen = memory._remember(sam, top, ({0: _kept(sam, top)}, {}), 1, 2)
    wanted = top + sam.no_mem_embed.view(1, -1, 1, 1)
    assert float((seen - wanted).square().mean() / wanted.var()) < 0.15


def test_the_prompted_frame_teaches_too(sam: SAM2Base, films: memory.Films) -> None:
    piece = memory.scraps(np.random.default_rng(0), films, 2, 2)
    parts = memory.losses(sam, piece, np.random.default_rng(0))
    assert {"first dice", "first bce", "first J", "dice", "bce", "J"} <= set(parts)
    weight = sam.sam_mask_decoder.output_hypernetworks_mlps[0].layers[0].weight
    only = {name: value for name, value in parts.items() if name.startswith("first")}
    memory.total(only).backward()
    assert weight.grad is not None and weight.grad.abs().max() > 0
    assert memory.total(parts) > memory.total({name: value for name, value in parts.items() if name not in only})


def _kept(sam: SAM2Base, top: torch.Tensor) -> dict[str, object]:
    rows, _, side, _ = top.shape
    logits = torch.randn(rows, 4 * side, 4 * side)
    return memory._memory(sam, top, logits, torch.randn(rows, 256), torch.ones(rows), prompted=True)


def test_only_the_memory_learns(sam: SAM2Base, films: memory.Films) -> None:
    rng = np.random.default_rng(0)
    before = {name: value.clone() for name, value in sam.state_dict().items()}
    chosen = memory.parameters(sam)
    optimizer = torch.optim.AdamW([{"params": chosen, "peak": 1e-3}])
    memory.begin(sam, memory.scraps(rng, films, 4, 2).pictures.flatten(0, 1))
    values = []
    for step in range(8):
        parts = memory.losses(sam, memory.scraps(np.random.default_rng(step % 2), films, 4, 3), rng)
        values.append(float(parts["dice"]))
        segmentation.descend([optimizer], memory.total(parts), 1.0)
    assert np.mean(values[-2:]) < np.mean(values[:2])
    learned = memory.learned(sam)
    moved = {name for name, value in sam.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and moved <= set(learned)


def test_following_gives_what_the_language_model_reads(sam: SAM2Base, films: memory.Films) -> None:
    pictures = memory.scraps(np.random.default_rng(0), films, 1, 3).pictures[:, 0]
    found = memory.follow(Tower(sam), pictures, (20, 20, 90, 90))
    assert len(found) == 3
    assert found[2].image.shape == (1, 256, 8, 8) and found[2].mask_tokens.shape == (1, 2, 256)
