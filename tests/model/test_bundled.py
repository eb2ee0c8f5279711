"""The bundled checkpoint: it lies in the project, is small and safe to load, and sees drawn things on photographs.

This holds what it can do, not what it should: its card has the figures, and most targets are missed.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from PIL import Image, ImageDraw

from model import PerceiveAnything, Prompt, Sampling, Task
from model.loading import hub
from tests.conftest import PICTURES
from tests.device import DEVICE

COLOURS = {"red": (220, 30, 30), "green": (40, 160, 60), "blue": (60, 80, 220), "yellow": (250, 220, 30)}
BOX = (40, 180, 200, 340)


@pytest.fixture(scope="module")
def tiny() -> PerceiveAnything:
    return PerceiveAnything.from_pretrained("tiny", device=DEVICE)


def test_it_is_small_and_holds_no_pickle() -> None:
    folder = hub.resolve("tiny").folder
    files = [path for path in folder.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 30_000_000
    assert {path.suffix for path in files} <= {".json", ".txt", ".safetensors", ".yaml", ".md", ".png"}


def test_it_sees_discs_painted_on_photographs(tiny: PerceiveAnything) -> None:
    """Mask, colour and place from one click, for 16 pictures it never saw; two may fail."""
    rows, columns = np.mgrid[:480, :480]
    truth = (columns - 120) ** 2 + (rows - 260) ** 2 < 80**2
    good = 0
    for photograph, (name, colour) in itertools.product(sorted(PICTURES.glob("*.jpg")), COLOURS.items()):
        picture = Image.open(photograph).convert("RGB").resize((480, 480))
        ImageDraw.Draw(picture).ellipse(BOX, fill=colour)
        found = tiny.perceive(
            picture, [Prompt(points=[(120, 260, 1)])], [Task.BRIEF], sampling=Sampling(max_new_tokens=32)
        )
        mask, caption = found.regions[0].mask, found.texts[0][Task.BRIEF].string
        iou = (mask & truth).sum() / (mask | truth).sum()
        good += bool(iou > 0.65 and name in caption and "left" in caption)
    assert good >= 14


def test_it_speaks_chinese(tiny: PerceiveAnything) -> None:
    picture = Image.new("RGB", (300, 300), "gray")
    ImageDraw.Draw(picture).ellipse((100, 100, 200, 200), fill=(220, 30, 30))
    (texts,) = tiny.perceive(picture, [Prompt(box=(95, 95, 205, 205))], [Task.BRIEF], language="zh").texts
    assert any("一" <= character <= "鿿" for character in texts[Task.BRIEF].string)
    assert texts[Task.BRIEF].finished
