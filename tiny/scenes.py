"""Scenes with exact truth: cut-out things pasted over photographs and textures, each scene made from its seed alone."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco

from tiny import looks
from tiny.art import Catalog, Drawing
from tiny.looks import UNKNOWN
from tiny.paint import Picture, crop, develop, inked, recolour, restyled, shade, texture, trim
from tiny.texts import Neighbour, Truth

SPLITS = ("train", "val", "test", "transfer", "icons")
"""train and val show drawings that training uses, val over held-out backgrounds; test shows the held-out drawings,
transfer the held-out style and icons the held-out plain icons, all over held-out backgrounds."""

_COUNTS = (0.28, 0.3, 0.24, 0.12, 0.06)  # how often a scene has 1, 2, … 5 things
_RESTYLED = 0.7  # share of the drawings that training may see in other tones
_UNKNOWN_SHARE = 0.2  # things outside the class table
_HARD = 0.25  # share of the things that training lays over the picture's edge, where they may hide more of others


@dataclass(frozen=True)
class Thing:
    """One thing of a scene: its truth and its visible H×W mask; `source` is the drawing's file or how it was made."""

    truth: Truth
    mask: NDArray[np.bool_]
    source: str


@dataclass(frozen=True)
class Scene:
    """A picture (H×W×3 uint8 RGB) and its things, the lowest first."""

    picture: Picture
    things: tuple[Thing, ...]


class Painter:
    """Makes the scenes of one split; the same catalogue, split, seed and number always give the same scene."""

    def __init__(self, catalog: Catalog, split: str, seed: int) -> None:
        """Raises ValueError for an unknown split or one without drawings."""
        if split not in SPLITS:
            raise ValueError(f"split is {split!r}, not one of {', '.join(SPLITS)}")
        self.catalog, self.split, self.seed = catalog, split, seed
        wanted = "train" if split == "val" else split
        drawings = [d for d in catalog.drawings if d.split == wanted]
        self.known: dict[str, list[Drawing]] = {}
        for drawing in drawings:
            if drawing.label is not None:
                self.known.setdefault(drawing.label, []).append(drawing)
        if not self.known:
            raise ValueError(f"the art folder {catalog.root} has no drawings for split {split}")
        self.names = sorted(self.known)
        self.strange = [d for d in drawings if d.label is None]
        self.backgrounds = catalog.backgrounds["train" if split == "train" else "test"]

    def scene(self, number: int, size: tuple[int, int] | None = None) -> Scene:
        """Scene `number` (0, 1, …); `size` is (width, height), by default one of several picture shapes."""
        rng = np.random.default_rng([self.seed, self.code, number])
        width, height = size or ((320, 240), (240, 320), (288, 288), (352, 224), (272, 256))[rng.integers(5)]
        canvas = self.background(rng, width, height).astype(np.float32)
        count = int(rng.choice(len(_COUNTS), p=_COUNTS)) + 1
        whole: list[NDArray[np.bool_]] = []
        owner = np.full((height, width), -1, np.int16)
        chosen: list[tuple[str, str]] = []
        for _ in range(count):
            kind, source, cut = self.thing(rng)
            learning = self.split == "train"
            slant = rng.normal(0, 0.12) if learning else 0.0
            hard = learning and rng.random() < _HARD
            layer = _place(rng, cut, width, height, count, owner, whole, slant, hard)
            if layer is None:
                continue
            colour, alpha = layer
            if rng.random() < 0.45:
                canvas = shade(rng, canvas, alpha)
            canvas = canvas * (1 - alpha[..., None]) + colour * alpha[..., None]
            mask = alpha > 0.5
            owner[mask] = len(whole)
            whole.append(mask)
            chosen.append((kind, source))
        picture = develop(rng, canvas)
        return Scene(picture, tuple(things_of(picture, owner, whole, chosen)))

    @property
    def code(self) -> int:
        """The split's part of a random seed."""
        return SPLITS.index(self.split)

    def background(self, rng: Generator, width: int, height: int) -> Picture:
        """A part of a photograph, or a texture, RGB."""
        if not self.backgrounds or rng.random() < 0.12:
            return texture(rng, width, height)
        source = _photograph(str(self.catalog.root / self.backgrounds[rng.integers(len(self.backgrounds))]))
        return crop(rng, source, width, height)

    def thing(self, rng: Generator, unknown_share: float = _UNKNOWN_SHARE) -> tuple[str, str, Picture]:
        """Kind, source and RGBA picture of the next thing; `unknown_share` 0…1 of them are outside the class table."""
        if rng.random() < unknown_share:
            if self.strange and rng.random() < 0.6:
                drawing = self.strange[rng.integers(len(self.strange))]
                return UNKNOWN, drawing.file, self._look(rng, drawing)
            return UNKNOWN, "blob", self._blob(rng)
        kind = self.names[rng.integers(len(self.names))]
        drawing = self.known[kind][rng.integers(len(self.known[kind]))]
        return kind, drawing.file, self._look(rng, drawing)

    def _look(self, rng: Generator, drawing: Drawing) -> Picture:
        cut = _drawing(str(self.catalog.root / drawing.file))
        if drawing.ink:
            cut = inked(rng, cut)
        elif self.split == "train" and rng.random() < _RESTYLED:
            cut = restyled(rng, cut)
        return recolour(rng, cut)

    def _blob(self, rng: Generator) -> Picture:
        """A smooth random shape cut out of a photograph or a texture."""
        side = 160
        turn = np.arctan2(*np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j])
        reach = np.hypot(*np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j])
        edge = 0.62 + sum(rng.uniform(0, 0.22 / k) * np.cos(k * turn + rng.uniform(0, 6.3)) for k in range(1, 6))
        alpha = np.clip((edge - reach) * side / 4, 0, 1)
        skin = texture(rng, side, side) if rng.random() < 0.4 else self.background(rng, side, side)
        return trim(np.dstack([skin, (alpha * 255).astype(np.uint8)]))


def export(painter: Painter, count: int, folder: Path) -> Path:
    """Write `count` scenes as PNG files and truth.json (class, mask as RLE, box, colour, place, size) to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        scene = painter.scene(number)
        name = f"{painter.split}-{painter.seed}-{number:05d}.png"
        Image.fromarray(scene.picture).save(folder / name)
        things = []
        for thing in scene.things:
            code = coco.encode(np.asfortranarray(thing.mask.astype(np.uint8)))
            rle = {"size": list(code["size"]), "counts": code["counts"].decode("ascii")}
            things.append(
                {
                    "class": thing.truth.kind,
                    "mask": rle,
                    "box": looks.box_of(thing.mask),
                    "colour": thing.truth.colour,
                    "place": thing.truth.place,
                    "size": thing.truth.size,
                    "source": thing.source,
                    "neighbour": asdict(thing.truth.neighbour) if thing.truth.neighbour else None,
                }
            )
        height, width = scene.picture.shape[:2]
        rows.append({"file": name, "width": width, "height": height, "things": things})
    target = folder / "truth.json"
    target.write_text(
        json.dumps({"split": painter.split, "seed": painter.seed, "scenes": rows}, indent=1), encoding="utf-8"
    )
    return target


@lru_cache(maxsize=8000)
def _drawing(file: str) -> Picture:
    return np.asarray(Image.open(file).convert("RGBA"))


@lru_cache(maxsize=400)
def _photograph(file: str) -> Picture:
    return np.asarray(Image.open(file).convert("RGB"))


def _place(
    rng: Generator,
    cut: Picture,
    width: int,
    height: int,
    count: int,
    owner: NDArray[np.int16],
    whole: list[NDArray[np.bool_]],
    slant: float,
    hard: bool,
) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Turn, scale and put the cut-out somewhere, a `hard` one over the picture's edge: colour H×W×3, alpha H×W in 0…1;
    None when it would hide too much."""
    most, least = (0.75, 0.25) if hard else (0.55, 0.4)  # of another thing that it may hide, that must be left to see
    for _ in range(8):
        low, high = (0.34, 0.8) if count == 1 else (0.28, 0.64) if count == 2 else (0.24, 0.54)
        side = rng.uniform(low, high) * min(width, height)
        scale = side / max(cut.shape[:2])
        stretch = np.exp(rng.normal(0, 0.06))
        turn = rng.normal(0, 12) if rng.random() < 0.9 else rng.uniform(-180, 180)
        flip = -1.0 if rng.random() < 0.5 else 1.0
        column: float = (rng.integers(3) + rng.uniform(0.1, 0.9)) / 3 * width
        row: float = (rng.integers(3) + rng.uniform(0.1, 0.9)) / 3 * height
        column = np.clip(column, 0.42 * side, width - 0.42 * side)
        row = np.clip(row, 0.42 * side, height - 0.42 * side)
        if hard:
            pick = rng.random()  # between the two bounds: a corner
            column = _over_the_edge(rng, width, side) if pick < 0.6 else column
            row = _over_the_edge(rng, height, side) if pick > 0.45 else row
        cos, sin = np.cos(np.radians(turn)), np.sin(np.radians(turn))
        turned = np.array([[cos, -sin], [sin, cos]]) @ np.array([[1, slant], [0, 1]])
        matrix = turned @ np.diag([flip * scale * stretch, scale / stretch])
        colour, alpha = lay(smoothed(cut, scale), matrix, (column, row), (width, height))
        mask = alpha > 0.5
        if mask.sum() < max(60, 0.003 * mask.size):
            continue
        if any(
            (mask & (owner == i)).sum() > most * other.sum() or ((owner == i) & ~mask).sum() < least * other.sum()
            for i, other in enumerate(whole)
        ):
            continue
        return colour, alpha
    return None


def _over_the_edge(rng: Generator, length: float, side: float) -> float:
    """Where along a width or height of `length` the middle of a thing `side` long lies, so that one end cuts it."""
    return float(rng.choice([rng.uniform(-0.2, 0.3) * side, length - rng.uniform(-0.2, 0.3) * side]))


def smoothed(cut: Picture, scale: float) -> NDArray[Any]:
    """A cut-out as float32, ready to be laid at `scale`: colours premultiplied, so that no dark rim appears."""
    source: NDArray[Any] = cut.astype(np.float32)
    source[..., :3] *= source[..., 3:] / 255
    # cv2.warpAffine does not smooth when it shrinks
    return cv2.GaussianBlur(source, (0, 0), 0.35 / scale) if scale < 0.6 else source


def lay(
    source: NDArray[Any], matrix: NDArray[Any], middle: tuple[float, float], size: tuple[int, int]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """A smoothed cut-out under a 2 × 2 matrix, its middle at (x, y), on a canvas of (width, height): colour H×W×3,
    alpha H×W in 0…1."""
    centre = matrix @ (np.array([source.shape[1], source.shape[0]]) / 2)
    affine = np.column_stack([matrix, [middle[0] - centre[0], middle[1] - centre[1]]])
    warped = cv2.warpAffine(source, affine, size, flags=cv2.INTER_LINEAR)
    alpha = np.clip(warped[..., 3] / 255, 0, 1)
    return warped[..., :3] / np.maximum(alpha, 1e-3)[..., None], alpha


def things_of(
    picture: Picture, owner: NDArray[np.int16], whole: list[NDArray[np.bool_]], chosen: list[tuple[str, str]]
) -> list[Thing]:
    """The truth of a finished picture: whose each pixel is (-1: the ground's), each thing's mask before others hid a
    part of it, each one's kind and source."""
    masks = [owner == number for number in range(len(whole))]
    colours = [looks.colour_of(picture[mask]) for mask in masks]
    things = []
    for number, mask in enumerate(masks):
        truth = Truth(
            chosen[number][0],
            colours[number],
            looks.place_of(mask),
            looks.size_of(mask),
            _neighbour(number, masks, whole, [kind for kind, _ in chosen], colours),
        )
        things.append(Thing(truth, mask, chosen[number][1]))
    return things


def _neighbour(
    number: int, masks: list[NDArray[np.bool_]], whole: list[NDArray[np.bool_]], names: list[str], colours: list[str]
) -> Neighbour | None:
    """What covers the thing most, else what it covers most, else what is nearest within a fifth of the picture."""
    own = whole[number]
    above = [(int((own & masks[i]).sum()), i) for i in range(number + 1, len(masks))]
    below = [(int((whole[i] & masks[number]).sum()), i) for i in range(number)]
    for relation, pairs in (("covered", above), ("front", below)):
        if pairs and max(pairs)[0] > 0.06 * own.sum():
            other = max(pairs)[1]
            return Neighbour(relation, names[other], colours[other])
    away = cv2.distanceTransform((~masks[number]).astype(np.uint8), cv2.DIST_L2, 3)
    gaps = [(float(away[mask].min()), i) for i, mask in enumerate(masks) if i != number]
    if gaps and min(gaps)[0] < 0.2 * max(own.shape):
        other = min(gaps)[1]
        return Neighbour("beside", names[other], colours[other])
    return None
