from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from backend.label_studio.geometry import mask_of
from backend.label_studio.outline import outline

ROWS, COLUMNS = np.mgrid[:200, :300]


def disc(x: float, y: float, radius: float) -> np.ndarray:
    inside: np.ndarray = (COLUMNS - x) ** 2 + (ROWS - y) ** 2 < radius**2
    return inside


def filled(mask: np.ndarray, tolerance: float) -> np.ndarray:
    points = [list(point) for point in outline(mask, tolerance)]
    return mask_of("polygon", {"points": points}, 300, 200, 10**6)


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


SHAPES = {
    "disc": disc(100, 100, 70),
    "ring": disc(100, 100, 70) & ~disc(90, 100, 30),
    "two parts": disc(80, 100, 50) | disc(240, 60, 30),
    "ring and part": (disc(100, 100, 70) & ~disc(90, 100, 30)) | disc(240, 60, 30),
    "at the edge": disc(0, 0, 80),
}


@pytest.mark.parametrize("name", SHAPES)
def test_filled_the_outline_is_the_mask(name: str) -> None:
    assert iou(filled(SHAPES[name], 1.0), SHAPES[name]) > 0.96


def test_more_tolerance_means_fewer_corners() -> None:
    counts = [len(outline(SHAPES["ring"], tolerance)) for tolerance in (0.5, 2, 8)]
    assert counts[0] > counts[1] > counts[2] >= 6
    assert iou(filled(SHAPES["ring"], 2), SHAPES["ring"]) > 0.94


def test_specks_are_left_out() -> None:
    assert len(outline(SHAPES["disc"] | disc(280, 180, 3), 1.0)) == len(outline(SHAPES["disc"], 1.0))


def test_an_empty_mask_has_no_outline() -> None:
    assert outline(np.zeros((20, 30), bool), 1.0) == []


def test_percentages_stay_in_the_picture() -> None:
    canvas = Image.new("1", (300, 200))
    ImageDraw.Draw(canvas).rectangle((0, 0, 299, 199), fill=1)
    assert all(0 <= number <= 100 for point in outline(np.asarray(canvas), 1.0) for number in point)
