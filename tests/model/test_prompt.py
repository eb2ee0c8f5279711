from __future__ import annotations

import numpy as np
import pytest

from model import Prompt, PromptError


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "empty prompt"),
        ({"points": []}, "empty prompt"),
        ({"points": [(1, 2)]}, "label 1 inside"),
        ({"points": [(1, 2, 3)]}, "1 means inside"),
        ({"points": [(float("nan"), 2, 1)]}, "finite"),
        ({"points": [(1, "x", 1)]}, "number of pixels"),
        ({"box": (5, 5, 1, 9)}, "empty or inverted"),
        ({"box": (5, 5, 5, 9)}, "empty or inverted"),
        ({"box": (1, 2, 3)}, "give (x1, y1, x2, y2)"),
        ({"box": (1, 2, float("inf"), 4)}, "finite"),
        ({"mask": np.zeros((4, 4), bool)}, "empty mask"),
        ({"mask": np.ones((4, 4, 3), bool)}, "boolean array"),
        ({"mask": np.ones((4, 4), bool), "box": (0, 0, 1, 1)}, "of its own"),
    ],
)
def test_unusable_prompts_say_what_to_do(arguments: dict[str, object], says: str) -> None:
    with pytest.raises(PromptError, match=says.replace("(", r"\(").replace(")", r"\)")):
        Prompt(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "prompt",
    [
        Prompt(points=[(101, 5, 1)]),
        Prompt(points=[(-1, 5, 1)]),
        Prompt(box=(100, 0, 110, 10)),
        Prompt(mask=np.ones((100, 50), bool)),
    ],
)
def test_prompts_off_the_picture(prompt: Prompt) -> None:
    with pytest.raises(PromptError):
        prompt.check_inside(width=100, height=50)


def test_a_point_on_the_edge_is_inside() -> None:
    Prompt(points=[(0, 0, 1), (100, 50, 0)]).check_inside(width=100, height=50)


def test_a_box_comes_before_its_points() -> None:
    coords, labels = Prompt(points=[(3, 4, 1), (5, 6, 0)], box=(1, 2, 7, 8)).sparse()
    assert coords.tolist() == [[1, 2], [7, 8], [3, 4], [5, 6]]
    assert labels.tolist() == [2, 3, 1, 0]


def test_a_mask_brings_its_box() -> None:
    mask = np.zeros((20, 30), bool)
    mask[5:9, 10:16] = True
    coords, labels = Prompt(mask=mask).sparse()
    assert coords.tolist() == [[10, 5], [16, 9]]
    assert labels.tolist() == [2, 3]
