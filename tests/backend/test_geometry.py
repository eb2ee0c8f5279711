from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backend.errors import PromptError
from backend.job import Group, JobReply, RegionReply
from backend.label_studio.geometry import hull, kind_of, mask_of, may_cover
from backend.label_studio.protocol import RegionValue
from backend.labeling.controls import RegionContext
from backend.labeling.controls.bitmask import Bitmask
from backend.labeling.controls.brush import Brush
from backend.labeling.controls.polygon import Polygon
from backend.labeling.controls.rectangle import Rectangle
from backend.labeling.controls.vector import Vector
from model.values.mask import to_rle

MASK = np.zeros((40, 60), bool)
MASK[10:30, 15:45] = True
MASK[15:20, 25:30] = False


def context(mask: np.ndarray) -> RegionContext:
    region = RegionReply(mask=to_rle(mask), area=int(mask.sum()), iou=0.9, object_score=1.0)
    reply = JobReply(width=60, height=40, groups=((region,),), seconds={}, model_version="m@1", cached=False)
    return RegionContext("r", reply, Group(), region)


@pytest.mark.parametrize(("control", "least"), [(Brush, 1.0), (Bitmask, 1.0), (Polygon, 0.9), (Vector, 0.9)])
def test_what_we_write_we_read_back(control: Any, least: float) -> None:
    item = control("g", "i").item(context(MASK))
    assert item is not None and item["type"] == control.plain.lower()
    back = mask_of(item["type"], item["value"], 60, 40, 10**6)
    assert (back & MASK).sum() / (back | MASK).sum() >= least


@pytest.mark.parametrize("control", [Brush, Bitmask, Polygon, Vector])
def test_what_cannot_cover_a_point_does_not(control: Any) -> None:
    item = control("g", "i").item(context(MASK))
    for row in range(40):
        for column in range(60):
            x, y = (column + 0.5) / 60 * 100, (row + 0.5) / 40 * 100
            may = may_cover(item["type"], item["value"], 60, 40, x, y)
            assert may or not MASK[row, column]
            assert control is not Brush or may == MASK[row, column]
    far = may_cover(item["type"], item["value"], 60, 40, 2, 2)
    assert not far or control is Bitmask


def test_a_damaged_region_covers_nothing() -> None:
    damaged: dict[str, dict[str, Any]] = {"brush": {"rle": [1, 2]}, "polygon": {"points": []}, "vector": {"x": 3}}
    for kind, value in damaged.items():
        assert not may_cover(kind, value, 60, 40, 50, 50)
    assert not may_cover("brush", {"rle": [1, 2]}, 0, 40, 50, 50)


def test_a_rectangle_is_the_box_of_the_mask() -> None:
    item = Rectangle("g", "i").item(context(MASK))
    assert item is not None
    assert item["value"] == {"x": 25, "y": 25, "width": 50, "height": 50, "rotation": 0}


@pytest.mark.parametrize("control", [Brush, Bitmask, Polygon, Vector, Rectangle])
def test_an_empty_mask_is_no_region(control: Any) -> None:
    assert control("g", "i").item(context(np.zeros((40, 60), bool))) is None


def test_ellipses_and_turned_boxes_become_their_upright_hull() -> None:
    assert hull("ellipse", RegionValue(x=50, y=50, radiusX=20, radiusY=10)) == pytest.approx((30, 40, 70, 60))
    turned = RegionValue(x=50, y=50, radiusX=20, radiusY=10, rotation=90)
    assert hull("ellipse", turned) == pytest.approx((40, 30, 60, 70))
    assert hull("rectangle", RegionValue(x=-5, y=90, width=20, height=20)) == (0, 90, 15, 100)
    with pytest.raises(PromptError, match="outside"):
        hull("rectangle", RegionValue(x=120, y=0, width=5, height=5))
    with pytest.raises(PromptError, match="empty"):
        hull("ellipse", RegionValue(x=50, y=50, radiusX=0, radiusY=10))
    with pytest.raises(PromptError, match="missing"):
        hull("rectangle", RegionValue(x=50, y=50))


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("brush", {"rle": [0, 0, 0, 4, 1]}),
        ("brush", {"rle": "abc"}),
        ("brush", {"rle": [0, 0, 37, 128, 255, 255]}),
        ("brush", {}),
        ("polygon", {"points": [[1, 1], [2, 2]]}),
        ("polygon", {"points": [[1, "x"], [2, 2], [3, 3]]}),
        ("polygon", {"points": [[1, float("nan")], [2, 2], [3, 3]]}),
        ("vector", {"vertices": [{"x": 1, "y": 1}, {"x": 9, "y": 1}, {"x": 5, "y": 9}], "closed": False}),
        ("bitmask", {"imageDataURL": "data:image/png;base64,AAAA"}),
        ("bitmask", {"imageDataURL": "nonsense"}),
    ],
)
def test_broken_regions_are_refused(kind: str, value: dict[str, Any]) -> None:
    with pytest.raises(PromptError, match="draw it anew"):
        mask_of(kind, value, 60, 40, 10**6)


def test_sizes_are_limited() -> None:
    with pytest.raises(PromptError, match="pixels"):
        mask_of("polygon", {"points": [[0, 0], [9, 0], [9, 9]]}, 10**5, 10**5, 10**6)


def test_kinds() -> None:
    assert [kind_of(name) for name in ("brushlabels", "keypoint", "choices", "ellipselabels", "relation")] == [
        "brush",
        "keypoint",
        None,
        "ellipse",
        None,
    ]


def png_bomb(side: int) -> str:
    image = Image.new("1", (side, side))
    out = io.BytesIO()
    image.save(out, "PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("brush", {"rle": 10**15}),  # bytes(n) would be so many zeros
        ("brush", {"rle": "AAAA"}),
        ("brush", {"rle": [256]}),
        ("brush", {"rle": [0] * (3 << 20)}),
        ("brush", {"rle": {"0": 1}}),
        ("bitmask", {"imageDataURL": png_bomb(14_000)}),  # 196 megapixels in 24 kB
        ("bitmask", {"imageDataURL": "data:image/png;base64,R0lGODlhAQABAAAAACw="}),  # a GIF
        ("polygon", {"points": [[float("inf"), 0], [1, 1], [2, 2]]}),
        ("polygon", {"points": [[1e308, -1e308]] * 3}),
        ("polygon", {"points": [10**400] * 3}),
        ("vector", {"closed": True, "vertices": [None]}),
    ],
)
def test_hostile_regions_are_refused(kind: str, value: dict[str, Any]) -> None:
    with pytest.raises(PromptError):
        mask_of(kind, value, 100, 50, 10**8)


@pytest.mark.parametrize("rotation", [0, 30, 90, 135, 270])
def test_what_is_turned_is_turned_in_pixels(rotation: float) -> None:
    # drawn in the pixels of a picture of 1000 × 500, as Label Studio's canvas does
    width, height = 1000, 500
    angle = np.radians(rotation)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    corners = np.array([[0, 0], [150, 0], [0, 100], [150, 100]]) @ turn.T + (500, 250)
    expected = np.concatenate([corners.min(0), corners.max(0)]) / (10, 5, 10, 5)
    value = RegionValue(x=50, y=50, width=15, height=20, rotation=rotation)
    assert hull("rectangle", value, width / height) == pytest.approx(tuple(expected))
    around = np.linspace(0, 2 * np.pi, 10_000)
    ring = np.stack([100 * np.cos(around), 40 * np.sin(around)], 1) @ turn.T + (500, 250)
    expected = np.concatenate([ring.min(0), ring.max(0)]) / (10, 5, 10, 5)
    value = RegionValue(x=50, y=50, radiusX=10, radiusY=8, rotation=rotation)
    assert hull("ellipse", value, width / height) == pytest.approx(tuple(expected), abs=1e-3)
