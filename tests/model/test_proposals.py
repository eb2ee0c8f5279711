"""Regions without a prompt."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from model import PerceiveAnything, Prompt, Region, Sampling, Task
from model.sam.proposals import distinct
from model.sam.tower import stability
from tests.device import DEVICE


@pytest.fixture(scope="module")
def tiny() -> PerceiveAnything:
    return PerceiveAnything.from_pretrained("tiny", device=DEVICE)


def square(x: int, y: int, side: int, size: int = 40) -> torch.Tensor:
    mask = torch.zeros(size, size, dtype=torch.bool)
    mask[y : y + side, x : x + side] = True
    return mask


def test_distinct_drops_what_a_better_mask_covers() -> None:
    big, shifted, apart, part = square(0, 0, 20), square(1, 1, 20), square(22, 22, 10), square(2, 2, 6)
    nearly = square(0, 0, 15)  # IoU 0.5625 with the big one, but all of it inside
    assert distinct(torch.stack([big, shifted, apart, part, nearly]), 0.6, 9) == [0, 2, 3]
    # the better of two comes first, whichever is larger
    assert distinct(torch.stack([nearly, big]), 0.6, 9) == [0]
    assert distinct(torch.stack([big, shifted, apart]), 1.0, 9) == [0, 2]  # one thing seen twice in spite of the IoU
    assert distinct(torch.stack([big, square(10, 0, 20)]), 0.3, 9) == [0]  # IoU 1/3
    assert distinct(torch.stack([big, square(10, 0, 20)]), 0.4, 9) == [0, 1]
    assert distinct(torch.stack([big, apart, part]), 0.6, 2) == [0, 1]
    assert distinct(torch.zeros(0, 4, 4, dtype=torch.bool), 0.6, 9) == []


def test_stability_is_that_of_the_mask_moved_by_one() -> None:
    logits = torch.tensor([[[2.0, 0.5], [-0.5, -2.0]], [[2.0, 2.0], [-2.0, -2.0]], [[-5.0, -5.0], [-5.0, -5.0]]])
    assert stability(logits).tolist() == pytest.approx([1 / 3, 1.0, 0.0])


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / (first | second).sum())


def test_proposals_are_what_was_asked_for(tiny: PerceiveAnything, coffee: Image.Image) -> None:
    embedding = tiny.encode(coffee)

    def found(**options: float) -> list[Region]:
        anything = {"points_per_side": 6, "min_iou": 0.0, "min_stability": 0.0, "min_area_share": 0.0}
        return tiny.propose(embedding, **{**anything, **options})  # type: ignore[arg-type]

    every = found(max_overlap=1.0)
    assert 4 <= len(every) <= 36
    ious = [region.iou for region in every]
    assert ious == sorted(ious, reverse=True)
    for region in every[:4]:
        assert region.mask.shape == (coffee.height, coffee.width)
        # each is exactly what its click gives
        (alone,) = tiny.segment(embedding, [Prompt(points=region.prompt.points)])
        assert overlap(alone.mask, region.mask) > 0.999
    apart = [region.mask_logits > 0 for region in found(max_overlap=0.1)]
    assert 2 <= len(apart) < len(every)
    assert max(overlap(a, b) for i, a in enumerate(apart) for b in apart[:i]) <= 0.1
    middle = ious[len(ious) // 2]
    sure = found(max_overlap=1.0, min_iou=middle)
    assert 1 <= len(sure) < len(every) and min(region.iou for region in sure) >= middle - 1e-4
    large = found(max_overlap=1.0, min_area_share=0.1)
    assert 1 <= len(large) < len(every)
    assert all((region.mask_logits > 0).mean() >= 0.1 for region in large)
    steady = found(max_overlap=1.0, min_stability=0.3)
    assert 1 <= len(steady) < len(every)
    assert all(float(stability(torch.from_numpy(r.mask_logits)[None])) >= 0.299 for r in steady)
    (best,) = found(limit=1)
    assert best.iou == pytest.approx(ious[0], abs=1e-4)


def test_the_survivors_can_be_described(pam: PerceiveAnything, coffee: Image.Image) -> None:
    regions = pam.propose(pam.encode(coffee), 4, min_iou=0, min_stability=0)
    assert regions
    for region, texts in zip(
        regions, pam.describe(regions, [Task.RECOGNIZE], sampling=Sampling(max_new_tokens=3)), strict=True
    ):
        assert region.object_score > 0 and texts[Task.RECOGNIZE].token_ids


@pytest.mark.parametrize(
    "wrong", [{"points_per_side": 0}, {"limit": 0}, {"min_iou": 1.1}, {"max_overlap": -0.1}, {"min_area_share": 2.0}]
)
def test_numbers_out_of_range_are_named(pam: PerceiveAnything, coffee: Image.Image, wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        pam.propose(pam.encode(coffee), **wrong)  # type: ignore[arg-type]


def discs(ground: str) -> tuple[Image.Image, list[np.ndarray]]:
    picture = Image.new("RGB", (480, 480), ground)
    pen = ImageDraw.Draw(picture)
    rows, columns = np.mgrid[:480, :480]
    masks = []
    for x, y, radius, colour in ((120, 260, 80, (220, 30, 30)), (350, 130, 70, (60, 80, 220))):
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
        masks.append((columns - x) ** 2 + (rows - y) ** 2 < radius**2)
    return picture, masks


@pytest.mark.parametrize("ground", ["white", "gray"])
def test_the_bundled_checkpoint_finds_two_discs(tiny: PerceiveAnything, ground: str) -> None:
    picture, truths = discs(ground)
    found = tiny.propose(tiny.encode(picture))
    assert 2 <= len(found) <= 4
    for truth in truths:
        assert max(overlap(truth, region.mask) for region in found[:3]) > 0.75
