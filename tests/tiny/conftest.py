"""An art folder of three drawn shapes and one ground, made on the spot: no download."""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from tiny import art, photographs, speaking, stages, tokenizer, trunk
from tiny.art import Catalog

SHAPES = {"apple": "red", "house": "blue", "leaf": "green", None: "orange"}
STYLES = ("noto", "openmoji", "emojione", art.TRANSFER_STYLE)


@pytest.fixture(autouse=True)
def half_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages are so many minutes long: here each of their steps takes half a second, however fast the machine is."""
    counted = itertools.count(step=0.5)
    clock = SimpleNamespace(perf_counter=lambda: next(counted))
    for stage in (stages, speaking):
        monkeypatch.setattr(stage, "time", clock)


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the tokenizer's files with 700 entries, to be read and copied."""
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.learn(folder, 700)
    return folder


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


@pytest.fixture(scope="session")
def seen(catalog: Catalog) -> Catalog:
    """The same art with photographs, their regions, and a trunk of random weights in the package's own names."""
    folder = catalog.root / "packages" / "trunk"
    folder.mkdir(parents=True)
    torch.save(package_weights(), folder / "trunk.pth")
    rng = np.random.default_rng(5)
    for number in range(10, 34):
        ground = np.zeros((200, 240, 3), np.uint8) + rng.integers(30, 90, 3, dtype=np.uint8)
        picture = Image.fromarray(ground + rng.integers(0, 12, ground.shape, dtype=np.uint8))
        pen = ImageDraw.Draw(picture)
        pen.rectangle((20, 30, 110, 150), fill=(220, 30 + number, 40))
        pen.ellipse((140, 60, 220, 160), fill=(40, 200, 220))
        file = catalog.root / "photographs" / "made" / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        picture.save(file, quality=95)
    for _ in photographs.make(catalog.root, 1, 64):
        pass
    return catalog


def package_weights() -> dict[str, Tensor]:
    """Random weights as the package of the trunk names them."""
    generator = torch.Generator().manual_seed(1)
    tensors: dict[str, Tensor] = {}

    def add(conv: str, norm: str, out: int, into: int, kernel: int) -> None:
        scale = (2 / (into * kernel**2)) ** 0.5
        tensors[f"{conv}.weight"] = scale * torch.randn(out, into, kernel, kernel, generator=generator)
        for part, low in (("weight", 0.8), ("bias", -0.1), ("running_mean", -0.1), ("running_var", 0.8)):
            tensors[f"{norm}.{part}"] = low + 0.4 * torch.rand(out, generator=generator)

    add("_conv_stem", "_bn0", 32, 3, 3)
    width, number = 32, 0
    for kernel, _, expansion, wider, depth in trunk.STAGES:
        for _ in range(depth):
            inner, name = width * expansion, f"_blocks.{number}"
            if expansion > 1:
                add(f"{name}._expand_conv", f"{name}._bn0", inner, width, 1)
            add(f"{name}._depthwise_conv", f"{name}._bn1", inner, 1, kernel)
            add(f"{name}._project_conv", f"{name}._bn2", wider, inner, 1)
            width, number = wider, number + 1
    add("_conv_head", "_bn1", 1280, width, 1)
    tensors["_fc.weight"] = 0.03 * torch.randn(1000, 1280, generator=generator)
    tensors["_fc.bias"] = torch.zeros(1000)
    return tensors
