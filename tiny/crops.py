"""The image encoder's first lesson: tell things and their colours apart on small cut-outs, hundreds a second.

SAM 2's decoder teaches its encoder where things end, hardly what they are; with this lesson the features know both.
Each picture shows one thing alone, on a plain ground or a photograph: easier than a scene, and so learned sooner.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from sam2.modeling.backbones.image_encoder import ImageEncoder
from torch import Tensor
from torch.nn import functional

from tiny import looks
from tiny.art import Catalog
from tiny.batch import MEAN, NAMES, STD
from tiny.heads import Heads
from tiny.looks import COLOURS, UNKNOWN
from tiny.paint import develop, inked, recolour, restyled

_UNKNOWN_SHARE = 0.08
_RECOLOURED = 0.5  # share of a crowd's things that are coloured as in scenes
_COLOURED = 0.4  # share of the things that are never plain icons
_ERASED = 0.25  # share of the things that lack a part
_STORED = 112  # pixels, longer side of a drawing in memory
_ACROSS, _SHARES = (2, 3, 4), (0.2, 0.4, 0.4)  # things in a row of a crowd, and how often
_GROUND = 256  # pixels, longer side of a photograph in memory


@dataclass(frozen=True)
class Cutouts:
    """N pictures of one thing each: pictures (N, 3, S, S) normalised, class and colour indices (N,) int64."""

    pictures: Tensor
    kind: Tensor
    colour: Tensor

    def to(self, device: torch.device) -> Cutouts:
        """The same on a device."""
        return Cutouts(self.pictures.to(device), self.kind.to(device), self.colour.to(device))


@dataclass(frozen=True)
class Crowd:
    """B pictures of N = 4, 9 or 16 things each: pictures (B, 3, S, S) normalised, shares (B·N, 1, S/16, S/16) of each
    cell that a thing covers, class and colour indices (B·N,) int64; things that are all but hidden have class −100."""

    pictures: Tensor
    shares: Tensor
    kind: Tensor
    colour: Tensor

    def to(self, device: torch.device) -> Crowd:
        """The same on a device."""
        return Crowd(*(part.to(device) for part in (self.pictures, self.shares, self.kind, self.colour)))


class Clippings:
    """The drawings of the training split and photographs to lay them on, small and in memory."""

    def __init__(self, catalog: Catalog) -> None:
        drawings = [d for d in catalog.drawings if d.split == "train"]
        self.by_kind: dict[str, list[tuple[NDArray[np.uint8], bool]]] = {}
        for drawing in drawings:
            picture = Image.open(catalog.root / drawing.file).convert("RGBA")
            picture.thumbnail((_STORED, _STORED), Image.Resampling.BOX)
            self.by_kind.setdefault(drawing.label or UNKNOWN, []).append((np.asarray(picture), drawing.ink))
        self.names = sorted(set(self.by_kind) - {UNKNOWN})
        self.grounds = []
        for file in catalog.backgrounds["train"]:
            ground = Image.open(catalog.root / file).convert("RGB")
            ground.thumbnail((_GROUND, _GROUND), Image.Resampling.BOX)
            if min(ground.size) >= 100:
                self.grounds.append(np.asarray(ground))

    def batch(self, rng: Generator, count: int, side: int) -> Cutouts:
        """`count` things alone, side × side pixels."""
        pictures = np.empty((count, side, side, 3), np.uint8)
        kinds = np.empty(count, np.int64)
        colours = np.empty(count, np.int64)
        for row in range(count):
            strange = UNKNOWN in self.by_kind and rng.random() < _UNKNOWN_SHARE
            kind = UNKNOWN if strange else self.names[rng.integers(len(self.names))]
            pictures[row], colours[row] = self._paste(rng, self._cut(rng, kind), side)
            kinds[row] = NAMES.index(kind)
        return Cutouts(_normal(pictures), torch.from_numpy(kinds), torch.from_numpy(colours))

    def crowd(self, rng: Generator, count: int, side: int) -> Crowd:
        """`count` crowded pictures, side × side pixels, coloured and blurred like scenes."""
        across = int(rng.choice(_ACROSS, p=_SHARES))  # large things and small ones: a scene has both
        things = across * across
        pictures = np.empty((count, side, side, 3), np.uint8)
        owners = np.full((count, side, side), 255, np.uint8)
        kinds = np.full(count * things, -100, np.int64)
        colours = np.zeros(count * things, np.int64)
        for row in range(count):
            canvas = np.array(self._ground(rng, side), np.float32)
            for slot in rng.permutation(things):
                strange = UNKNOWN in self.by_kind and rng.random() < _UNKNOWN_SHARE
                kind = UNKNOWN if strange else self.names[rng.integers(len(self.names))]
                cut = self._cut(rng, kind)
                cut = recolour(rng, cut) if rng.random() < _RECOLOURED else _tint(rng, cut)
                middle = (np.array([slot % across, slot // across]) + 0.5 + rng.uniform(-0.15, 0.15, 2)) * side / across
                _lay(rng, cut, side / across * rng.uniform(0.75, 1.25), middle, canvas, owners[row], int(slot))
                kinds[row * things + slot] = NAMES.index(kind)
            pictures[row] = develop(rng, canvas)
            for slot in range(things):
                shown = owners[row] == slot
                if shown.any():
                    word = looks.colour_of(pictures[row][shown])
                    colours[row * things + slot] = list(COLOURS).index(word)
        shares = _shares(owners, things)
        labels = torch.from_numpy(kinds).masked_fill(shares.sum((1, 2, 3)) < 1.5, -100)
        return Crowd(_normal(pictures), shares, labels, torch.from_numpy(colours))

    def _cut(self, rng: Generator, kind: str) -> NDArray[np.uint8]:
        """One drawing of a kind, its look changed, at times with a part missing."""
        same = self.by_kind[kind]
        if rng.random() < _COLOURED:  # icons are many and teach outlines only
            same = [row for row in same if not row[1]] or same
        picture, ink = same[rng.integers(len(same))]
        cut = inked(rng, picture) if ink else restyled(rng, picture)
        if rng.random() < _ERASED:
            high, wide = (max(2, int(side * rng.uniform(0.2, 0.5))) for side in cut.shape[:2])
            top, left = rng.integers(cut.shape[0] - high + 1), rng.integers(cut.shape[1] - wide + 1)
            cut = cut.copy()
            cut[top : top + high, left : left + wide, 3] = 0
        return cut

    def _ground(self, rng: Generator, side: int) -> NDArray[np.float32]:
        if rng.random() < 0.4:
            return np.broadcast_to(rng.integers(0, 256, 3).astype(np.float32), (side, side, 3))
        source = self.grounds[rng.integers(len(self.grounds))]
        span = int(rng.uniform(0.3, 1.0) * min(source.shape[:2]))
        top, left = rng.integers(source.shape[0] - span + 1), rng.integers(source.shape[1] - span + 1)
        return cv2.resize(source[top : top + span, left : left + span], (side, side)).astype(np.float32)

    def _paste(self, rng: Generator, cut: NDArray[np.uint8], side: int) -> tuple[NDArray[np.uint8], int]:
        middle = side * (0.5 + rng.uniform(-0.12, 0.12, 2))
        warped = _warp(rng, _tint(rng, cut), side * rng.uniform(0.6, 1.0), middle, side)
        alpha = warped[..., 3:].astype(np.float32) / 255
        shown = warped[..., 3] > 128
        colour = looks.colour_of(warped[..., :3][shown]) if shown.any() else "multicoloured"
        mixed = (warped[..., :3] * alpha + self._ground(rng, side) * (1 - alpha)) * rng.uniform(0.85, 1.1)
        mixed = mixed + rng.normal(0, 3, (side, side, 1))
        return np.clip(mixed, 0, 255).astype(np.uint8), list(COLOURS).index(colour)


def _shares(owners: NDArray[np.uint8], things: int) -> Tensor:
    """What part of each cell every thing covers: (B·N, 1, S/16, S/16) float32, from (B, S, S) of their numbers."""
    pictures, side = len(owners), owners.shape[1] // 16
    blocks = owners.reshape(pictures, side, 16, side, 16).transpose(0, 1, 3, 2, 4).reshape(-1, 256)
    places = np.arange(len(blocks))[:, None] * 256 + blocks
    counts = np.bincount(places.ravel(), minlength=len(blocks) * 256).reshape(pictures, side, side, 256)
    return torch.from_numpy(counts[..., :things] / 256).float().permute(0, 3, 1, 2).flatten(0, 1)[:, None]


def _lay(
    rng: Generator,
    cut: NDArray[np.uint8],
    size: float,
    middle: NDArray[np.float64],
    canvas: NDArray[np.float32],
    owner: NDArray[np.uint8],
    number: int,
) -> None:
    """Paste the cut-out into the square about `middle` that it can reach: a tenth of the work."""
    reach = int(np.ceil(1.6 * size))
    left, top = (int(v) for v in np.round(middle - reach / 2))
    warped = _warp(rng, cut, size, middle - (left, top), reach)
    side = canvas.shape[0]
    rows, columns = slice(max(top, 0), min(top + reach, side)), slice(max(left, 0), min(left + reach, side))
    part = warped[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    alpha = part[..., 3:].astype(np.float32) / 255
    canvas[rows, columns] += (part[..., :3] - canvas[rows, columns]) * alpha
    owner[rows, columns][part[..., 3] > 128] = number


def _warp(
    rng: Generator, cut: NDArray[np.uint8], size: float, middle: NDArray[np.float64], side: int
) -> NDArray[np.uint8]:
    """The RGBA cut-out, turned, stretched and perhaps mirrored, `size` pixels long about `middle` (x, y)."""
    pick = rng.random()
    turn = np.radians(rng.uniform(-180, 180) if pick < 0.06 else rng.normal(0, 12 if pick < 0.7 else 35))
    slant = np.array([[1, rng.normal(0, 0.12)], [rng.normal(0, 0.05), 1]])
    stretch = np.exp(rng.normal(0, 0.12, 2)) * size / max(cut.shape[:2]) * np.array([rng.choice([-1.0, 1.0]), 1.0])
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ slant @ np.diag(stretch)
    offset = middle - matrix @ (np.array(cut.shape[1::-1]) / 2)
    return cv2.warpAffine(cut, np.column_stack([matrix, offset]), (side, side), flags=cv2.INTER_AREA)  # type: ignore[return-value]


def _normal(pictures: NDArray[np.uint8]) -> Tensor:
    tensor = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    return (tensor - MEAN[:, None, None]) / STD[:, None, None]


def _tint(rng: Generator, cut: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Small changes of tone mostly, another hue at times."""
    hsv = cv2.cvtColor(cut[..., :3], cv2.COLOR_RGB2HSV).astype(np.int16)
    hsv[..., 0] = (hsv[..., 0] + (rng.integers(180) if rng.random() < 0.2 else rng.integers(-5, 6))) % 180
    hsv[..., 1] = np.clip(hsv[..., 1] * rng.uniform(0.6, 1.3), 0, 255)
    hsv[..., 2] = np.clip(hsv[..., 2] * rng.uniform(0.75, 1.15), 0, 255)
    return np.dstack([cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB), cut[..., 3]])


def losses(encoder: ImageEncoder, heads: Heads, batch: Cutouts) -> dict[str, Tensor]:
    """The loss and two rates of one batch, from the mean feature."""
    feature = encoder(batch.pictures)["backbone_fpn"][-1].float().mean((2, 3))
    return _judge(heads, feature, batch.kind, batch.colour)


def crowd_losses(encoder: ImageEncoder, heads: Heads, batch: Crowd) -> dict[str, Tensor]:
    """The same for crowded pictures, from the mean feature of each thing's cells."""
    things = len(batch.shares) // len(batch.pictures)
    features = encoder(batch.pictures)["backbone_fpn"][-1].float().repeat_interleave(things, 0)
    own = (features * batch.shares).sum((2, 3)) / batch.shares.sum((2, 3)).clamp(min=1e-3)
    seen = batch.kind >= 0
    return _judge(heads, own[seen], batch.kind[seen], batch.colour[seen])


def _judge(heads: Heads, feature: Tensor, kind: Tensor, colour: Tensor) -> dict[str, Tensor]:
    feature = heads.crop_norm(feature)
    said, shade = heads.crop_kind(feature), heads.crop_colour(feature)
    loss = functional.cross_entropy(said, kind, label_smoothing=0.05) + 0.2 * functional.cross_entropy(shade, colour)
    return {
        "crop": loss,
        "crop top-1": (said.argmax(1) == kind).float().mean().detach(),
        "crop colour right": (shade.argmax(1) == colour).float().mean().detach(),
    }
