"""Colour, place and the sentences."""

from __future__ import annotations

import numpy as np
import pytest

from tiny import clicks, looks
from tiny.texts import Neighbour, Truth, write


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((220, 30, 30), "red"), ((250, 140, 20), "orange"), ((250, 220, 40), "yellow"), ((40, 170, 60), "green"),
        ((40, 90, 220), "blue"), ((130, 50, 180), "purple"), ((250, 120, 190), "pink"), ((120, 75, 40), "brown"),
        ((15, 15, 15), "black"), ((128, 128, 128), "grey"), ((245, 245, 245), "white"),
    ],
)  # fmt: skip
def test_colour_words(rgb: tuple[int, int, int], name: str) -> None:
    assert looks.colour_of(np.full((50, 3), rgb, np.uint8)) == name


def test_many_colours() -> None:
    pixels = np.repeat(np.array([[220, 30, 30], [40, 170, 60], [40, 90, 220]], np.uint8), 10, axis=0)
    assert looks.colour_of(pixels) == "multicoloured"


def test_places_in_reading_order() -> None:
    found = []
    for row in (10, 50, 80):
        for column in (10, 50, 80):
            mask = np.zeros((90, 90), bool)
            mask[row : row + 5, column : column + 5] = True
            found.append(looks.place_of(mask))
    assert found == list(looks.PLACES)


def test_mirrored_place_is_that_of_the_mirrored_mask() -> None:
    mask = np.zeros((90, 90), bool)
    mask[2:9, 4:20] = True
    assert looks.mirrored(looks.place_of(mask)) == looks.place_of(mask[:, ::-1])


def test_sentences() -> None:
    truth = Truth("apple", "orange", "at the top left", "large", Neighbour("covered", "dog", "brown"))
    assert write("recognize", truth) == "apple"
    assert write("recognize", truth, "zh") == "苹果"
    assert write("brief", truth) == "An orange apple at the top left."
    assert write("brief", truth, "zh") == "左上方的一个橙色的苹果。"
    assert write("detailed", truth) == "A large orange apple at the top left. It is partly covered by a brown dog."
    assert write("explain", truth).startswith("apple: ")
    assert write("brief", Truth("scissors", "grey", "on the right", "small")) == "Grey scissors on the right."
    assert write("recognize", Truth("object", "grey", "on the right", "small"), "zh") == "物体"


def test_clicks_fall_where_they_should() -> None:
    rng = np.random.default_rng(0)
    mask = np.zeros((60, 80), bool)
    mask[10:30, 20:70] = True
    for _ in range(50):
        x, y, label = clicks.inside(rng, mask)
        assert label == 1
        assert mask[int(y), int(x)]
    guess = np.zeros_like(mask)
    guess[10:30, 20:40] = True
    x, y, label = clicks.correction(mask, guess)
    assert label == 1 and mask[int(y), int(x)] and not guess[int(y), int(x)]
    x, y, label = clicks.correction(guess, mask)
    assert label == 0 and mask[int(y), int(x)] and not guess[int(y), int(x)]


def test_boxes_stay_on_the_picture_and_meet_the_thing() -> None:
    rng = np.random.default_rng(1)
    mask = np.zeros((60, 80), bool)
    mask[0:30, 40:80] = True
    for _ in range(100):
        x1, y1, x2, y2 = clicks.box(rng, mask)
        assert 0 <= x1 < x2 <= 80 and 0 <= y1 < y2 <= 60
        assert x1 < 60 < x2 and y1 < 15 < y2
