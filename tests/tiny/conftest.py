"""An art folder of three drawn shapes and one ground, made on the spot: no download."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tiny import art
from tiny.art import Catalog

SHAPES = {"apple": "red", "house": "blue", "leaf": "green", None: "orange"}
STYLES = ("noto", "openmoji", "emojione", art.TRANSFER_STYLE)


@pytest.fixture(scope="session")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """Every shape in every style, split as the fetched art is."""
    root: Path = tmp_path_factory.mktemp("art")
    rows: list[tuple[str, str, str, str | None]] = []
    for style in STYLES:
        for number, (label, colour) in enumerate(SHAPES.items()):
            picture = Image.new("RGBA", (96, 80), (0, 0, 0, 0))
            pen = ImageDraw.Draw(picture)
            draw = (pen.ellipse, pen.rectangle, pen.ellipse, pen.rectangle)[number]
            draw((1, 1, 94, 78), fill=colour)
            file = f"{style}-{label}.png"
            picture.save(root / file)
            rows.append((file, str(label), style, label))
    ground = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)
    Image.fromarray(ground).save(root / "ground.png")
    data = {
        "drawings": [asdict(drawing) for drawing in art.assign(rows)],
        "backgrounds": {"train": ["ground.png"], "test": ["ground.png"]},
    }
    (root / "catalog.json").write_text(json.dumps(data))
    return art.load(root)
