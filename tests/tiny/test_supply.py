"""What the SAM 2 stage is given, and the stage itself: stopped, gone on with, and heads that settle first."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from model.errors import CheckpointError
from tiny import crops, memory, pool, stages
from tiny.art import Catalog
from tiny.batch import NAMES, Batch
from tiny.clips import Director
from tiny.place import Place, sam2
from tiny.recipe import Recipe, read
from tiny.scenes import Painter
from tiny.segmentation import Learner
from tiny.supply import Ahead, Supply

TINY = Path(__file__).parents[2] / "model" / "checkpoints" / "tiny"
SIDE = 64


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    lesson = {"side": SIDE, "pictures": 2, "regions": 2, "pieces": 1, "minutes": 60.0}
    small: dict[str, object] = {
        "seed": 3,
        "side": SIDE,
        "shards": 1,
        "compiled": False,
        "settle": 0.02,
        "segment": [lesson],
    }
    parts: dict[str, object] = {"crops": {"minutes": 0, "side": SIDE, "batch": 4, "crowds": 2}}
    parts |= {"memory": {"clips": 2, "pieces": 1, "frames": 3, "minutes": 0.1}}
    return Recipe.model_validate(read().model_dump() | small | parts)


@pytest.fixture(scope="module")
def drawn(catalog: Catalog, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a few scenes and clips."""
    run = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool, "SHARD", 6)
        pool.draw(Painter(catalog, "train", recipe.seed), run / "pool" / "train", 0, SIDE)
    for split, count in (("train", 2), ("val", 2)):
        memory.draw(Director(Painter(catalog, split, 1)), run / "films" / split, count, SIDE)
    return run


@pytest.fixture
def place(catalog: Catalog, drawn: Path, tmp_path: Path) -> Place:
    shutil.copytree(drawn, tmp_path / "run")
    return Place(catalog.root, tmp_path / "run", TINY)


def minutes(recipe: Recipe, count: float) -> Recipe:
    return recipe.model_copy(update={"segment": (recipe.segment[0].model_copy(update={"minutes": count}),)})


def test_kinds_of_batches_take_turns(place: Place, recipe: Recipe) -> None:
    supply = Supply(place, recipe, [0])
    kinds = [type(supply.draw(step, 0.0)) for step in range(8)]
    assert kinds[3] is memory.Scraps
    assert all(kind is crops.Crowd for kind in kinds[1::2] if kind is not memory.Scraps)
    assert all(kind is Batch for kind in kinds[::2])


def test_a_lesson_may_have_more_clips(place: Place, recipe: Recipe) -> None:
    more = recipe.model_copy(update={"segment": (recipe.segment[0].model_copy(update={"films": 3}),)})
    supply = Supply(place, more, [0])
    kinds = [type(supply.draw(step, 0.0)) for step in range(8)]
    assert [step for step, kind in enumerate(kinds) if kind is memory.Scraps] == [3, 5, 7]


def test_batches_of_the_other_process_are_those_of_this_one(place: Place, recipe: Recipe) -> None:
    supply = Supply(place, recipe, [5])
    with Ahead(place, recipe, [5]) as ahead:
        for step in (0, 1):
            ahead.order(step, 0.0)
        for step in (0, 1):
            torch.testing.assert_close(ahead.take().pictures, supply.draw(step, 0.0).pictures, rtol=0, atol=0)


def test_what_a_crowd_shows(catalog: Catalog) -> None:
    crowd = crops.Clippings(catalog).crowd(np.random.default_rng(1), 3, 128)
    things = len(crowd.kind) // 3
    assert things in (4, 9, 16) and crowd.shares.shape == (3 * things, 1, 8, 8)
    covered = crowd.shares.view(3, things, 8, 8).sum(1)
    assert covered.max() <= 1 and covered.mean() > 0.2  # no pixel belongs to two things
    assert {NAMES[kind] for kind in crowd.kind.tolist() if kind >= 0} <= {"apple", "house", "leaf", "object"}


def test_shares_of_cells_are_their_means() -> None:
    owners = np.random.default_rng(0).integers(0, 5, (2, 64, 64)).astype(np.uint8)
    owners[owners == 4] = 255
    wanted = functional.avg_pool2d(torch.from_numpy(owners[:, None] == np.arange(4)[None, :, None, None]).float(), 16)
    torch.testing.assert_close(crops._shares(owners, 4), wanted.flatten(0, 1)[:, None])


def test_heads_settle_while_sam2_stays(place: Place, recipe: Recipe) -> None:
    learner = Learner(sam2(place, TINY), 1e-3)
    before = {name: value.clone() for name, value in learner.sam.state_dict().items()}
    heads = learner.heads.crop_kind.weight.detach().clone()
    with Ahead(place, recipe, [0]) as ahead:
        stages._settle(learner, ahead, recipe)
    assert all(torch.equal(value, before[name]) for name, value in learner.sam.state_dict().items())
    assert not torch.equal(learner.heads.crop_kind.weight, heads)
    assert torch.equal(learner.average_heads.crop_kind.weight, learner.heads.crop_kind.weight)
    assert all(parameter.requires_grad for parameter in learner.sam.parameters())


def test_the_stage_goes_on_where_it_was_stopped(place: Place, recipe: Recipe) -> None:
    device = torch.device("cpu")
    stages.segment(place, minutes(recipe, 2.8 / 60), device, TINY)
    first = torch.load(place.segment_state, weights_only=True)
    assert first["step"] == 6 and first["minutes"] == pytest.approx(0.05)
    stages.segment(place, minutes(recipe, first["minutes"] + 2.8 / 60), device, TINY)
    second = torch.load(place.segment_state, weights_only=True)
    assert second["step"] == 12 and second["minutes"] == pytest.approx(0.1)
    name = "image_encoder.trunk.stages.5.0.project.weight"
    assert not torch.equal(first["sam"][name], second["sam"][name])
    begun = [json.loads(line) for line in place.log.read_text().splitlines() if "started_from" in line]
    assert len(begun) == 1 and begun[0]["stage"] == "segment"


def test_another_run_goes_on_with_heads_and_optimizers_of_the_one_before(
    place: Place, recipe: Recipe, tmp_path: Path
) -> None:
    device = torch.device("cpu")
    stages.segment(place, minutes(recipe, 2.8 / 60), device, TINY)
    before = torch.load(place.segment_state, weights_only=True)
    later = Place(place.art, tmp_path / "later", TINY)
    shutil.copytree(place.run / "pool", later.run / "pool")
    shutil.copytree(place.run / "films", later.run / "films")
    slower = recipe.model_copy(update={"rates": recipe.rates.model_copy(update={"segment": 1e-9})})
    stages.segment(later, minutes(slower, 1.3 / 60), device, TINY, place.run)
    after = torch.load(later.segment_state, weights_only=True)
    assert (before["step"], after["step"]) == (6, 3)  # counted anew
    for name, value in before["average_heads"].items():  # at that rate, what was taken over stays
        torch.testing.assert_close(after["heads"][name], value, rtol=0, atol=1e-5)
    assert not torch.equal(before["heads"]["kind.weight"], Learner(sam2(place, TINY), 1e-3).heads.kind.weight)
    moments = [state["exp_avg"] for state in before["optimizers"][0]["state"].values()]
    assert any(moment.abs().max() > 0 for moment in moments)
    assert after["optimizers"][0]["param_groups"][0]["peak"] == 1e-9


@pytest.mark.parametrize("state", [None, {"average": {}, "average_heads": {}}])
def test_a_run_that_does_not_fit_is_refused(place: Place, state: dict[str, object] | None) -> None:
    if state is not None:
        torch.save(state, place.run / "other.pt")
    with pytest.raises(CheckpointError, match=r"is missing|another sam2\.yaml"):
        Learner(sam2(place, TINY), 1e-3).inherit(place.run / "other.pt")
