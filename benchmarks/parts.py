"""Scenes of twenty made-up machine parts, classes that no checkpoint has seen, and of things that it knows.

A part has the shape of its class, drawn anew each time: turned, of another size and thickness, in one of five
materials, four classes to a material, whose tone varies. Things that are known are cut out of the demo's scenes.
Grounds are noise of several scales in a random tone, or a blurred part of a demo photograph.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageChops, ImageDraw, ImageFilter

DEMO = Path(__file__).parent.parent / "demo"
SIZE = (320, 240)
_SIDE = 256
_MATERIALS = ((150, 155, 165), (190, 150, 70), (45, 45, 50), (180, 60, 50), (60, 95, 170))


@dataclass(frozen=True, eq=False)
class Thing:
    """One thing of a scene: its class and its visible mask, boolean (H, W)."""

    label: str
    mask: np.ndarray


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture and its things."""

    picture: Image.Image
    things: tuple[Thing, ...]


def _ring(draw: ImageDraw.ImageDraw, rng: Generator, sides: int, hole: float, hole_sides: int = 64) -> None:
    draw.polygon(_polygon(sides, 120), fill=255)
    draw.polygon(_polygon(hole_sides, 120 * hole * rng.uniform(0.9, 1.1)), fill=0)


def _toothed(draw: ImageDraw.ImageDraw, rng: Generator, teeth: int, depth: float, hole: float) -> None:
    corners = []
    for step in range(4 * teeth):
        reach = 122 if step % 4 in (0, 1) else 122 * (1 - depth)
        turn = 2 * math.pi * step / (4 * teeth)
        corners.append((128 + reach * math.cos(turn), 128 + reach * math.sin(turn)))
    draw.polygon(corners, fill=255)
    draw.polygon(_polygon(64, 122 * hole * rng.uniform(0.9, 1.1)), fill=0)


def _bars(draw: ImageDraw.ImageDraw, rng: Generator, boxes: list[tuple[float, float, float, float]]) -> None:
    thick = rng.uniform(-4, 4)
    for x1, y1, x2, y2 in boxes:
        draw.rectangle((x1 - thick, y1 - thick, x2 + thick, y2 + thick), fill=255)


def _holes(draw: ImageDraw.ImageDraw, places: list[tuple[float, float]], radius: float) -> None:
    for x, y in places:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=0)


def _flange(draw: ImageDraw.ImageDraw, rng: Generator, bolts: int) -> None:
    _ring(draw, rng, 64, 0.32)
    turn = rng.uniform(0, 1)
    _holes(draw, [_at(turn + 2 * math.pi * k / bolts, 84) for k in range(bolts)], 15)


def _spring(draw: ImageDraw.ImageDraw, rng: Generator) -> None:
    turns = 7
    line = [(20 + 216 * k / (2 * turns), 84 if k % 2 else 172) for k in range(2 * turns + 1)]
    draw.line(line, fill=255, width=int(rng.integers(12, 18)), joint="curve")


def _spiral(draw: ImageDraw.ImageDraw, rng: Generator) -> None:
    line = [_at(k / 12, 8 + 108 * k / 180) for k in range(181)]
    draw.line(line, fill=255, width=int(rng.integers(12, 20)), joint="curve")


def _plate(draw: ImageDraw.ImageDraw, rng: Generator, holes: list[tuple[float, float]]) -> None:
    draw.rounded_rectangle((12, 60, 244, 196), radius=int(rng.integers(6, 24)), fill=255)
    _holes(draw, holes, rng.uniform(15, 19))


def _bolt(draw: ImageDraw.ImageDraw, rng: Generator) -> None:
    end = rng.uniform(200, 244)
    draw.rectangle((60, 106, end, 150), fill=255)
    draw.rectangle((12, 74, 64, 182), fill=255)


def _wrench(draw: ImageDraw.ImageDraw, rng: Generator) -> None:
    wide = rng.uniform(14, 20)
    draw.rectangle((50, 128 - wide, 206, 128 + wide), fill=255)
    for x in (46, 210):
        draw.ellipse((x - 40, 88, x + 40, 168), fill=255)
    draw.rectangle((0, 114, 44, 142), fill=0)
    draw.rectangle((212, 114, 256, 142), fill=0)


def _drop(draw: ImageDraw.ImageDraw, rng: Generator) -> None:
    draw.ellipse((40, 100, 190, 250), fill=255)
    draw.polygon([(48, 150), (182, 150), (115, rng.uniform(2, 20))], fill=255)
    draw.ellipse((90, 150, 140, 200), fill=0)


SHAPES: dict[str, Callable[[ImageDraw.ImageDraw, Generator], None]] = {
    "gasket-A": lambda d, r: _ring(d, r, 64, 0.8),
    "gasket-B": lambda d, r: _flange(d, r, 4),
    "hex-nut": lambda d, r: _ring(d, r, 6, 0.5),
    "gear-12": lambda d, r: _toothed(d, r, 12, 0.22, 0.3),
    "gear-5": lambda d, r: _toothed(d, r, 5, 0.4, 0.2),
    "square-frame": lambda d, r: _ring(d, r, 4, 0.62, 4),
    "l-bracket": lambda d, r: _bars(d, r, [(30, 20, 76, 236), (30, 190, 226, 236)]),
    "u-clamp": lambda d, r: _bars(d, r, [(30, 20, 70, 236), (30, 196, 226, 236), (186, 20, 226, 236)]),
    "t-piece": lambda d, r: _bars(d, r, [(16, 30, 240, 84), (100, 30, 156, 236)]),
    "cross": lambda d, r: _bars(d, r, [(16, 104, 240, 152), (104, 16, 152, 240)]),
    "ladder": lambda d, r: _bars(
        d, r, [(60, 8, 84, 248), (172, 8, 196, 248), *((60, y, 196, y + 16) for y in (36, 92, 148, 204))]
    ),
    "comb": lambda d, r: _bars(d, r, [(12, 60, 244, 100), *((x, 60, x + 18, 210) for x in range(12, 240, 42))]),
    "spring": _spring,
    "spiral": _spiral,
    "plate-2": lambda d, r: _plate(d, r, [(60, 128), (196, 128)]),
    "plate-6": lambda d, r: _plate(d, r, [(x, y) for x in (56, 128, 200) for y in (94, 162)]),
    "bolt": _bolt,
    "wrench": _wrench,
    "wedge": lambda d, r: d.polygon([(16, 220), (240, 220), (240, r.uniform(30, 80))], fill=255),
    "drop": _drop,
}
"""Of each class how its shape is drawn, white on black, in a square of 256 pixels."""

NEW = tuple(SHAPES)


def known() -> tuple[str, ...]:
    """The classes of the things that are cut out of the demo's scenes."""
    return tuple(sorted({label for label, _ in _cuts()}))


def scene(seed: int, labels: list[str]) -> Scene:
    """A scene with a thing of each of the labels, new or known, that finds room; the same seed makes the same scene."""
    rng = np.random.default_rng([17, seed])
    picture = _ground(rng)
    taken = Image.new("L", SIZE)
    things = []
    for label in labels:
        colour, alpha = _part(rng, label) if label in SHAPES else _cut(rng, label)
        side = int(rng.uniform(0.42, 0.62) * SIZE[1]) if len(labels) < 3 else int(rng.uniform(0.34, 0.46) * SIZE[1])
        turn = rng.uniform(0, 360) if label in SHAPES else rng.uniform(-20, 20)
        scale = side / max(alpha.size)
        size = (max(8, int(alpha.width * scale)), max(8, int(alpha.height * scale)))
        colour = colour.resize(size).rotate(turn, expand=True, resample=Image.Resampling.BILINEAR)
        alpha = alpha.resize(size).rotate(turn, expand=True, resample=Image.Resampling.BILINEAR)
        for _ in range(20):
            x = int(rng.integers(0, max(1, SIZE[0] - alpha.width)))
            y = int(rng.integers(0, max(1, SIZE[1] - alpha.height)))
            place = Image.new("L", SIZE)
            place.paste(alpha, (x, y))
            if ImageChops.multiply(place, taken).getbbox() is None:
                picture.paste(colour, (x, y), alpha)
                taken = ImageChops.lighter(taken, place.filter(ImageFilter.MaxFilter(5)))
                things.append(Thing(label, np.asarray(place) > 127))
                break
    return Scene(_grain(rng, picture), tuple(things))


def _part(rng: Generator, label: str) -> tuple[Image.Image, Image.Image]:
    """Its colours, RGB, and its shape, L."""
    shape = Image.new("L", (_SIDE, _SIDE))
    SHAPES[label](ImageDraw.Draw(shape), rng)
    base = np.array(_MATERIALS[NEW.index(label) % len(_MATERIALS)], float)
    base = np.clip(base * rng.uniform(0.75, 1.25) + rng.normal(0, 8, 3), 0, 255)
    across = np.linspace(-1, 1, _SIDE)
    turn = rng.uniform(0, 2 * math.pi)
    light = 1 + 0.18 * (across[None] * math.cos(turn) + across[:, None] * math.sin(turn))
    colours = np.clip(base * light[..., None] + rng.normal(0, 5, (_SIDE, _SIDE, 3)), 0, 255)
    return Image.fromarray(colours.astype(np.uint8)), shape


@cache
def _cuts() -> list[tuple[str, Image.Image]]:
    """Class and cut-out, RGBA, of each thing in the demo's scenes."""
    from model.values.mask import from_rle, mask_box

    found = []
    scenes = json.loads((DEMO / "scenes" / "truth.json").read_text(encoding="utf-8"))["scenes"]
    for made in scenes:
        picture = Image.open(DEMO / "scenes" / made["file"]).convert("RGB")
        for thing in made["things"]:
            mask = from_rle(thing["mask"])
            if thing["class"] == "unknown" or (box := mask_box(mask)) is None:
                continue
            picture.putalpha(Image.fromarray((mask * 255).astype(np.uint8)))
            found.append((str(thing["class"]), picture.crop((int(box[0]), int(box[1]), int(box[2]), int(box[3])))))
            picture = picture.convert("RGB")
    return found


def _cut(rng: Generator, label: str) -> tuple[Image.Image, Image.Image]:
    mine = [cut for name, cut in _cuts() if name == label]
    cut = mine[rng.integers(len(mine))]
    if rng.random() < 0.5:
        cut = cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    bright = rng.uniform(0.8, 1.2)
    return cut.convert("RGB").point(lambda value: int(min(255, value * bright))), cut.getchannel("A")


@cache
def _photographs() -> list[Image.Image]:
    return [Image.open(path).convert("RGB") for path in sorted((DEMO / "pictures").glob("*.jpg"))]


def _ground(rng: Generator) -> Image.Image:
    width, height = SIZE
    if rng.random() < 0.5:
        photograph = _photographs()[rng.integers(len(_photographs()))]
        side = min(photograph.width // 2, photograph.height // 2)
        x, y = rng.integers(0, photograph.width - side), rng.integers(0, photograph.height - side)
        part = photograph.crop((int(x), int(y), int(x + side), int(y + side))).resize(SIZE)
        return part.filter(ImageFilter.GaussianBlur(float(rng.uniform(1, 5))))
    tone = rng.uniform(60, 210, 3)
    field = np.zeros((height, width))
    for cells in (4, 12, 48):
        noise = Image.fromarray(rng.normal(0, 1, (cells, cells)).astype(np.float32))
        field += np.asarray(noise.resize(SIZE, Image.Resampling.BICUBIC)) * 14 / math.sqrt(cells / 4)
    return Image.fromarray(np.clip(tone + field[..., None], 0, 255).astype(np.uint8))


def _grain(rng: Generator, picture: Image.Image) -> Image.Image:
    values = np.asarray(picture, dtype=float) + rng.normal(0, 4, (*picture.size[::-1], 3))
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def _polygon(sides: int, radius: float) -> list[tuple[float, float]]:
    return [_at(2 * math.pi * k / sides, radius) for k in range(sides)]


def _at(turn: float, radius: float) -> tuple[float, float]:
    return 128 + radius * math.cos(turn), 128 + radius * math.sin(turn)
