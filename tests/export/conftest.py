from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from backend.__main__ import parser
from backend.errors import BackendError
from backend.export.arguments import FORMATS
from backend.export.run import run as run_export
from backend.label_studio import rle
from backend.settings import Settings

CONFIG = """<View>
  <Image name="image" value="$image"/>
  <BrushLabels name="mask" toName="image" smart="false">
    <Label value="car" alias="c_1"/><Label value="person"/><Label value="a class with blanks"/>
  </BrushLabels>
  <PolygonLabels name="outline" toName="image"><Label value="person"/><Label value="road"/></PolygonLabels>
  <RectangleLabels name="box" toName="image"><Label value="car"/></RectangleLabels>
  <EllipseLabels name="oval" toName="image"><Label value="road"/></EllipseLabels>
  <KeyPointLabels name="point" toName="image" smart="true" smartOnly="true"><Label value="car"/></KeyPointLabels>
  <TextArea name="caption" toName="image" perRegion="true"/>
  <Choices name="state" toName="image" perRegion="true"><Choice value="new"/><Choice value="old"/></Choices>
  <TextArea name="scene" toName="image"/>
</View>"""
CLASSES = ["car", "person", "a class with blanks", "road"]
WIDTH, HEIGHT = 60, 40


def ring_with_pieces() -> np.ndarray:
    """A mask with a hole, and a piece that lies apart."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[5:25, 5:30] = True
    mask[10:18, 12:20] = False
    mask[28:36, 40:55] = True
    return mask


def item(kind: str, name: str, region: str, value: dict[str, Any], **more: Any) -> dict[str, Any]:
    size = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
    shell = {"id": region, "from_name": name, "to_name": "image", "type": kind, "value": value}
    return size | shell | {"origin": "manual"} | more


def brush(mask: np.ndarray, label: str = "c_1", region: str = "r1", **more: Any) -> dict[str, Any]:
    value = {"format": "rle", "rle": rle.encode(mask), "brushlabels": [label]}
    return item("brushlabels", "mask", region, value, **more)


def box(x: float, y: float, width: float, height: float, rotation: float = 0, region: str = "b1") -> dict[str, Any]:
    value = {"x": x, "y": y, "width": width, "height": height, "rotation": rotation, "rectanglelabels": ["car"]}
    return item("rectanglelabels", "box", region, value)


def everything() -> list[dict[str, Any]]:
    """A result with a region of each kind."""
    shape = {"format": "rle", "rle": rle.encode(ring_with_pieces())}
    square = {"points": [[70, 5], [95, 5], [95, 30], [70, 30]], "polygonlabels": ["road"]}
    oval = {"x": 50, "y": 80, "radiusX": 10, "radiusY": 10, "rotation": 30, "ellipselabels": ["road"]}
    return [
        brush(ring_with_pieces(), score=0.75),
        item("textarea", "caption", "r1", shape | {"text": ["a red car"]}),
        item("choices", "state", "r1", shape | {"choices": ["old"]}),
        # what Label Studio files under a prompt's type where a prompt label was chosen at accept time
        item("keypointlabels", "point", "r1", shape | {"keypointlabels": ["car"]}),
        item("polygonlabels", "outline", "p1", square),
        box(50, 10, 10, 30, rotation=30),
        item("ellipselabels", "oval", "e1", oval),
        item("keypointlabels", "point", "k1", {"x": 5, "y": 5, "keypointlabels": ["car"]}),
        {"id": "t1", "from_name": "scene", "to_name": "image", "type": "textarea", "value": {"text": ["a street"]}},
    ]


def task(picture: str, result: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    work = {"id": 1, "result": result, "updated_at": "2026-01-01T00:00:00Z"}
    return {"data": {"image": picture}, "annotations": [work]} | more


def picture(path: Path, size: tuple[int, int] = (WIDTH, HEIGHT), orientation: int | None = None) -> Path:
    rng = np.random.default_rng(len(path.name))
    image = Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), np.uint8))
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    image.save(path, exif=exif)
    return path


Export = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def export(tmp_path: Path) -> Export:
    """What `python -m backend export` does with some tasks, into `tmp_path / format`; `alone`: that very command."""

    def command(*arguments: Any) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "backend", *map(str, arguments)]
        return subprocess.run(line, capture_output=True, text=True, timeout=180, check=False)

    def here(*arguments: Any) -> subprocess.CompletedProcess[str]:
        out = io.StringIO()
        try:
            code = run_export(Settings(), parser().parse_args([*map(str, arguments)]), Console(file=out, width=200))
        except BackendError as error:
            return subprocess.CompletedProcess(arguments, 1, out.getvalue(), f"{error.type}: {error}")
        return subprocess.CompletedProcess(arguments, code, out.getvalue(), "")

    def run(
        tasks: list[Any], what: str, *arguments: Any, config: str = CONFIG, code: int = 0, alone: bool = False
    ) -> subprocess.CompletedProcess[str]:
        assert what in FORMATS
        (tmp_path / "tasks.json").write_text(json.dumps(tasks))
        (tmp_path / "config.xml").write_text(config)
        given = ["export", "--input", tmp_path / "tasks.json", "--format", what, "--config", tmp_path / "config.xml"]
        done = (command if alone else here)(*given, "--out", tmp_path / what, *arguments)
        assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
