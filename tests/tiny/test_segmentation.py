"""What masks of boxes are taught: of a photograph's things too much rather than less, and boxes as they are served."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from model.sam.boxes import rough_masks
from tiny import clicks, segmentation
from tiny.batch import Batch
from tiny.heads import Heads
from tiny.looks import box_of
from tiny.place import Place, sam2
from tiny.segmentation import Decoded, Learner
from tiny.texts import Truth

TINY = Path(__file__).parents[2] / "model" / "checkpoints" / "tiny"
SIDE = 64


def shown(of_photographs: bool) -> Batch:
    """Two pictures of noise, with two squares each."""
    masks = np.zeros((4, SIDE, SIDE), bool)
    masks[:, 20:44, 16:40] = True
    targets = functional.avg_pool2d(torch.from_numpy(masks)[:, None].float(), 4)
    truth = Truth("object", "red", "centre", "large", None)
    zeros = torch.zeros(4, dtype=torch.int64)
    cells = torch.full((2, SIDE // 16, SIDE // 16), 1)
    pictures = torch.randn(2, 3, SIDE, SIDE)
    return Batch(pictures, masks, targets, zeros, zeros, zeros, cells, (truth,) * 4, of_photographs)


def test_a_pixel_that_is_missed_counts_as_often_as_it_is_said() -> None:
    batch = shown(True)
    target = batch.targets.gt(0.5).float()
    batch = dataclasses.replace(batch, targets=target)
    tokens, image = torch.zeros(4, 4, 256), torch.zeros(4, 256, 4, 4)

    def bce(logits: Tensor, missed: float) -> float:
        decoded = Decoded(logits, torch.zeros(4, 4), tokens, torch.zeros(4, 1), image)
        rows = torch.arange(4)
        return float(segmentation._region_losses(Heads(), decoded, batch, batch.kind, rows, missed)["bce"])

    right = torch.where(target > 0, 20.0, -20.0).expand(4, 4, 16, 16)
    short, spare = right.clone(), right.clone()
    short[..., 6, 6] = -20  # within the square
    spare[..., 0, 0] = 20
    assert bce(short, 5.0) == pytest.approx(5 * bce(short, 1.0), rel=1e-3)
    assert bce(spare, 5.0) == pytest.approx(bce(spare, 1.0), rel=1e-3)


@pytest.mark.parametrize(("of_photographs", "counts"), [(True, {"box": 5.0, "click": 1.0}), (False, {"box": 1.0})])
def test_only_what_is_missed_in_a_box_on_a_photograph_counts_more(
    of_photographs: bool, counts: dict[str, float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    learner = Learner(sam2(Place(tmp_path, tmp_path, TINY), TINY), 1e-3)
    segmentation.at_size(learner.sam, SIDE)
    seen: list[tuple[str, float]] = []
    plain, asked = segmentation._region_losses, segmentation.prompt

    def prompted(*given: Any) -> Any:
        seen.append((given[-1], 0.0))
        return asked(*given)

    def noted(*given: Any) -> Any:
        seen[-1] = (seen[-1][0], given[-1])
        return plain(*given)

    monkeypatch.setattr(segmentation, "prompt", prompted)
    monkeypatch.setattr(segmentation, "_region_losses", noted)
    for plan in counts:
        monkeypatch.setattr(segmentation, "_PLANS", {plan: 0.5, "mask": 0.5})
        monkeypatch.setattr(segmentation, "_PHOTOGRAPH_PLANS", {plan: 0.5, "mask": 0.5})
        parts = segmentation.losses(learner, shown(of_photographs), np.random.default_rng(0))
        assert torch.isfinite(segmentation.total(parts))
    found = dict(seen)
    assert {plan: found[plan] for plan in counts} == counts and found["mask"] == 1.0


def test_no_box_cuts_its_thing_and_half_of_them_are_tight() -> None:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[20:44, 16:40] = True
    left, top, right, bottom = box_of(mask)
    rng = np.random.default_rng(0)
    boxes = [clicks.box(rng, mask) for _ in range(400)]
    assert all(x1 <= left and y1 <= top and x2 >= right and y2 >= bottom for x1, y1, x2, y2 in boxes)
    assert 0.4 < np.mean([box == (left, top, right, bottom) for box in boxes]) < 0.65


def test_boxes_are_taught_as_they_are_served(tmp_path: Path) -> None:
    sam = sam2(Place(tmp_path, tmp_path, TINY), TINY)
    segmentation.at_size(sam, SIDE)
    masks = shown(True).masks
    levels = [torch.zeros(4, 1)]
    for plan in ("box", "box and click"):
        coords, labels, dense = segmentation.prompt(np.random.default_rng(0), sam, levels, masks, plan)
        wanted = rough_masks(sam, coords[:, :2])
        assert wanted is not None and dense is not None and torch.equal(dense, wanted)
        assert labels[:, :2].tolist() == [[2, 3]] * 4
        assert (dense[:, 0, 6:10, 5:9] == 2.0).all() and (dense[:, 0, :2] < -9).all()  # what lies within, and beyond
    assert segmentation.prompt(np.random.default_rng(0), sam, levels, masks, "click")[2] is None
