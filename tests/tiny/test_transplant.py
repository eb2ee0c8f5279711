"""Another trunk under what a checkpoint has learned, and the stage that goes on from there."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

from model.errors import CheckpointError
from tiny import pool, segmentation, stages, transplant, trunk
from tiny.album import Album
from tiny.art import Catalog
from tiny.batch import Batch
from tiny.place import SHAPE, Place, sam2
from tiny.recipe import Recipe, read
from tiny.scenes import Painter
from tiny.supply import Supply

TINY = Path(__file__).parents[2] / "model" / "checkpoints" / "tiny"
SIDE = 64


@pytest.fixture
def place(seen: Catalog, tmp_path: Path) -> Place:
    place = Place(seen.root, tmp_path / "run", tmp_path / "run" / "checkpoint")
    place.prepare()
    return place


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    lesson = {"side": SIDE, "pictures": 2, "regions": 2, "photographs": 1.0, "frozen": True, "minutes": 60.0}
    small: dict[str, object] = {
        "seed": 3,
        "side": SIDE,
        "shards": 1,
        "compiled": False,
        "settle": 0,
        "segment": [lesson],
    }
    return Recipe.model_validate(read().model_dump() | small)


def minutes(recipe: Recipe, count: float, **changes: object) -> Recipe:
    return recipe.model_copy(update={"segment": (recipe.segment[0].model_copy(update={"minutes": count, **changes}),)})


def test_a_new_run_gets_the_new_shape_and_keeps_its_own(place: Place) -> None:
    assert (place.checkpoint / "sam2.yaml").read_text() == SHAPE.read_text()
    (place.checkpoint / "sam2.yaml").write_text("mine")
    place.prepare()
    assert (place.checkpoint / "sam2.yaml").read_text() == "mine"


def test_a_fresh_one_has_the_trained_trunk_and_a_neck_that_sees_all_channels_alike(place: Place) -> None:
    sam = sam2(place, None)
    known = trunk.known(place.art).trunk.state_dict()
    assert all(torch.equal(value, known[name]) for name, value in sam.image_encoder.trunk.state_dict().items())
    maps = sam.image_encoder.trunk(trunk.samples(place.art, 12))[::-1]
    for conv, found in zip(sam.image_encoder.neck.convs, maps, strict=True):
        out = conv(found)
        assert 0.05 < float(out.std()) < 3 and abs(float(out.mean())) < 1


def test_decoder_and_memory_go_on_and_the_neck_gives_the_old_features(place: Place) -> None:
    sam, before = sam2(place, TINY), load_file(TINY / "sam2.safetensors")
    for name, value in before.items():
        if not name.startswith("image_encoder."):
            torch.testing.assert_close(sam.state_dict()[name], value.float())
    old = sam2(Place(place.art, place.run, TINY), TINY)
    shown = trunk.samples(place.art, 12)
    shares = transplant.fit_neck(sam, old, shown)
    assert len(shares) == 3 and all(0.05 < share <= 1 for share in shares)
    with torch.no_grad():
        for share, ours, theirs in zip(
            shares, sam.image_encoder(shown)["backbone_fpn"], old.image_encoder(shown)["backbone_fpn"], strict=True
        ):
            spread = (theirs - theirs.mean((0, 2, 3), keepdim=True)).square().sum()
            # what the neck was fitted to is what the encoder now gives
            assert float(1 - (ours - theirs).square().sum() / spread) == pytest.approx(share, abs=0.02)


def test_a_checkpoint_that_fits_its_own_config_only_is_refused(place: Place, tmp_path: Path) -> None:
    start = Path(shutil.copytree(TINY, tmp_path / "start"))
    tree = OmegaConf.load(place.checkpoint / "sam2.yaml")
    tree.model.memory_attention.num_layers = 2
    OmegaConf.save(tree, place.checkpoint / "sam2.yaml")
    with pytest.raises(CheckpointError, match="lacks memory_attention"):
        sam2(place, start)


def test_another_trunk_than_the_package_has_is_refused(place: Place) -> None:
    tree = OmegaConf.load(place.checkpoint / "sam2.yaml")
    tree.model.image_encoder.trunk.stages[1][4] = 2
    OmegaConf.save(tree, place.checkpoint / "sam2.yaml")
    with pytest.raises(CheckpointError, match="not that of"):
        sam2(place, None)


def test_photographs_teach_with_the_trunk_as_it_is_and_then_with_all(
    place: Place, recipe: Recipe, monkeypatch: pytest.MonkeyPatch, seen: Catalog
) -> None:
    monkeypatch.setattr(pool, "SHARD", 4)
    pool.draw(Painter(seen, "train", recipe.seed), place.run / "pool" / "train", 0, SIDE)
    drawn = Supply(place, recipe, [0]).draw(1, 0.0)
    assert isinstance(drawn, Batch) and drawn.of_photographs
    device, name = torch.device("cpu"), "image_encoder.trunk.stages.5.0.project.weight"
    stages.segment(place, minutes(recipe, 2.8 / 60), device, TINY)
    first = torch.load(place.segment_state, weights_only=True)
    assert first["step"] > 0
    begun = load_file(TINY / "sam2.safetensors")
    assert torch.equal(first["sam"][name], begun[name].float())
    moved = "sam_mask_decoder.mask_tokens.weight"
    assert not torch.equal(first["sam"][moved], begun[moved].float())
    stages.segment(place, minutes(recipe, first["minutes"] + 2.8 / 60, frozen=False), device, TINY)
    second = torch.load(place.segment_state, weights_only=True)
    assert second["step"] > first["step"] and not torch.equal(first["sam"][name], second["sam"][name])
    logged = place.log.read_text()
    assert "started_from" in logged


def test_regions_without_a_name_teach_no_class(seen: Catalog) -> None:
    batch = Album(seen, SIDE).batch(np.random.default_rng(0), 2, 3, SIDE)
    assert (segmentation._taught(batch)[batch.kind == 0] == -100).all()
    assert float(segmentation.classes(torch.randn(4, 5), torch.full((4,), -100))) == 0.0


def test_lessons_keep_their_proportions_in_less_time(recipe: Recipe) -> None:
    whole = read()
    shorter = whole.within(10.0)
    assert shorter.minutes == pytest.approx(10.0)
    assert shorter.segment[1].minutes / shorter.segment[0].minutes == pytest.approx(
        whole.segment[1].minutes / whole.segment[0].minutes
    )
