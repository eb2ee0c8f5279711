"""What a region looks like, as a vector."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw

from model import PerceiveAnything, Prompt, Region
from model.sam.features import coverage
from tests.device import DEVICE

SIZE = (320, 240)


@pytest.fixture(scope="module")
def tiny() -> PerceiveAnything:
    return PerceiveAnything.from_pretrained("tiny", device=DEVICE)


def disc(x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[: SIZE[1], : SIZE[0]] + 0.5
    return np.asarray((columns - x) ** 2 + (rows - y) ** 2 < radius**2)


def test_coverage_counts_the_pixels_in_each_cell() -> None:
    mask = np.zeros((8, 12), bool)
    mask[2:5, 1] = True
    assert coverage(mask, 4).tolist() == [[0, 0, 0, 0], [2, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    # of a picture smaller than the grid, several cells have a pixel
    small = np.array([[True, False]])
    assert coverage(small, 4).tolist() == [[1, 1, 0, 0]] * 4


def test_rows_do_not_depend_on_what_stands_beside_them(pam: PerceiveAnything, coffee: Image.Image) -> None:
    embedding = pam.encode(coffee)
    prompts = [Prompt(box=(200, 100, 400, 300)), Prompt(points=[(50, 60, 1)]), Prompt(box=(10, 10, 90, 80))]
    regions = pam.segment(embedding, [Prompt(mask=mask_in(coffee, prompt)) for prompt in prompts])
    together = pam.features(regions)
    assert together.dtype == np.float32
    assert together.shape == (3, 256 + 64 + 32)
    assert np.linalg.norm(together, axis=1) == pytest.approx([1, 1, 1], abs=1e-5)
    assert np.array_equal(together[1:2], pam.features(regions[1:2]))
    assert np.array_equal(together, pam.features(regions))
    assert pam.features([]).shape[0] == 0
    # the mask says it all, not how it was asked for
    (again,) = pam.segment(embedding, [Prompt(mask=regions[0].mask)])
    assert np.array_equal(pam.features([again])[0], together[0])


def mask_in(picture: Image.Image, prompt: Prompt) -> np.ndarray:
    mask = np.zeros((picture.height, picture.width), bool)
    left, top, right, bottom = map(int, prompt.box or (50, 60, 51, 61))
    mask[top:bottom, left:right] = True
    return mask


def test_a_mask_of_one_pixel_has_features_and_an_empty_one_zeros(pam: PerceiveAnything, coffee: Image.Image) -> None:
    embedding = pam.encode(coffee)
    pixel = np.zeros((coffee.height, coffee.width), bool)
    pixel[17, 23] = True
    (small,) = pam.segment(embedding, [Prompt(mask=pixel)])
    rows = pam.features([small, replace(small, mask=np.zeros_like(pixel))])
    assert np.linalg.norm(rows, axis=1) == pytest.approx([1, 0], abs=1e-5)


def test_the_same_thing_elsewhere_is_nearer_than_others(tiny: PerceiveAnything) -> None:
    """Two red discs, two blue ones: in one picture, and across two."""
    regions: list[Region] = []
    for shift, ground in ((0, "white"), (15, "lightgray")):
        picture = Image.new("RGB", SIZE, ground)
        pen = ImageDraw.Draw(picture)
        places = [(60, 60 + shift, "red"), (250 - shift, 170, "red"), (70 + shift, 180, "blue"), (240, 60, "blue")]
        for x, y, colour in places:
            pen.ellipse((x - 30, y - 30, x + 30, y + 30), fill=colour)
        regions += tiny.segment(tiny.encode(picture), [Prompt(mask=disc(x, y, 30)) for x, y, _ in places])
    rows = tiny.features(regions)
    likeness = rows @ rows.T
    np.fill_diagonal(likeness, -1)
    colours = np.array([0, 0, 1, 1] * 2)
    assert (colours[likeness.argmax(axis=1)] == colours).all()


def test_a_region_of_a_video_is_refused(pam: PerceiveAnything, coffee: Image.Image) -> None:
    (region,) = pam.segment(pam.encode(coffee), [Prompt(points=[(50, 60, 1)])])
    with pytest.raises(ValueError, match="picture"):
        pam.features([Region.of(region, region.prompt)])
