"""Scenes with several of a kind, and what is measured on them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rich.console import Console

from model import PerceiveAnything, Sampling
from model.finding import calibration, words
from tiny.art import Catalog
from tiny.clicks import iou
from tiny.evaluation import finding
from tiny.evaluation.finding import Tally, logistic
from tiny.scenes import Painter
from tiny.several import MOST, several


def test_a_scene_has_several_of_one_drawing_that_are_seen_whole(catalog: Catalog) -> None:
    painter = Painter(catalog, "test", 3)
    counts = []
    for number in range(6):
        made = several(painter, number)
        mine = [thing for thing in made.scene.things if thing.source == made.source]
        assert {thing.truth.kind for thing in mine} <= {made.kind}
        assert all(iou(a.mask, b.mask) == 0 for i, a in enumerate(mine) for b in mine[:i])
        counts.append(len(mine))
        assert len([thing for thing in made.scene.things if thing.truth.kind == made.kind]) == len(mine)
    assert max(counts) <= MOST and sum(count >= 2 for count in counts) >= 5
    again = several(Painter(catalog, "test", 3), 4)
    assert np.array_equal(again.scene.picture, several(painter, 4).scene.picture)
    assert not np.array_equal(again.scene.picture, several(Painter(catalog, "test", 4), 4).scene.picture)


def square(left: int, side: int = 10) -> np.ndarray:
    mask = np.zeros((20, 60), bool)
    mask[:side, left : left + side] = True
    return mask


def test_what_is_found_counts_once() -> None:
    tally = Tally()
    tally.count([square(0), square(1), square(40)], [square(0), square(20)])
    assert (tally.right, tally.wrong, tally.missed) == (1, 2, 1)
    assert tally.f1 == pytest.approx(2 / 5)
    tally.count([], [])
    assert tally.f1 == pytest.approx(2 / 5)


def test_a_logistic_regression_learns_what_made_the_answers() -> None:
    rng = torch.Generator().manual_seed(0)
    measures = {"fit": torch.randn(4000, generator=rng) * 3, "iou": torch.rand(4000, generator=rng)}
    chances = (2 * measures["fit"] - 4 * measures["iou"] + 1).sigmoid()
    right = (torch.rand(4000, generator=rng) < chances).long()
    right[::7] = -1  # these do not count
    found = logistic([(measures, right)], ridge=0)
    assert found[""] == pytest.approx(1, abs=0.4)
    assert found["fit"] == pytest.approx(2, abs=0.3) and found["iou"] == pytest.approx(-4, abs=0.8)


def test_figures_and_fit_of_a_checkpoint(
    catalog: Catalog, pam: PerceiveAnything, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With random weights: all that is promised is there, and in its range."""
    monkeypatch.setattr(words, "_USUAL", Sampling(max_new_tokens=2))  # they never end by themselves
    monkeypatch.setattr(finding, "kinds", lambda: ["apple", "house", "leaf"])
    console = Console(quiet=True)
    found = finding.figures(finding.run(pam, Painter(catalog, "test", 3), 1, console))
    assert set(finding.TARGETS) <= set(found) and all(0 <= found[name] <= 1 for name in finding.TARGETS)
    assert all(found[f"{name}_s"] > 0 for name in finding.TARGETS)
    fitted = finding.fit(pam, Painter(catalog, "test", 3), 1, console)
    assert set(fitted["BY_EXAMPLE"]) == set(calibration.BY_EXAMPLE) and set(fitted["BY_WORD"]) == set(
        calibration.BY_WORD
    )
