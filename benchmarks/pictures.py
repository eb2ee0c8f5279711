"""The picture that benchmarks work on, and boxes on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from model import Prompt

PICTURE = Path(__file__).parent.parent / "demo" / "pictures" / "coffee.jpg"


def boxes(width: int, height: int, count: int) -> list[Prompt]:
    """Boxes from a fixed seed, 15 to 50 % of the picture's sides."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        w, h = rng.uniform(0.15, 0.5) * width, rng.uniform(0.15, 0.5) * height
        x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
        found.append(Prompt(box=(int(x), int(y), int(x + w), int(y + h))))
    return found
