"""Batches of photographs: their own regions, and cut-outs of real things that are pasted so that their edge is no hint.

The regions come from `photographs.make`, their names from `naming.book`. What is pasted is a photographed stamp or a
region of another photograph; it takes on the light of where it lies, gets the softness of the picture and a shadow.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional

from tiny import looks, naming, photographs
from tiny.art import Catalog, Drawing
from tiny.batch import MEAN, NAMES, STD, Batch
from tiny.looks import COLOURS, PLACES, UNKNOWN
from tiny.paint import develop, shade, trim
from tiny.scenes import lay, smoothed
from tiny.texts import Neighbour, Truth

STAMPS = "tuxpaint-stamps-default"
"""The package whose cut-outs are photographs, but for those that say that they are cartoons."""
_PASTED = (0.4, 0.3, 0.2, 0.1)  # how often 0, 1, 2, 3 things are pasted
_FROM_PHOTOGRAPHS = 0.5  # share of the pasted that are regions of other photographs
_WHOLE = 0.35  # share of the views that are shown as they are, others are looked into
_LEAST = 60  # pixels of a region that is asked for
_MOST = 0.75  # share of the picture of one
_GONE = 0.5  # a region that is covered to more than this is no longer asked for
_CLEAR = 0.7  # agreement from which a region may be cut out and pasted


@dataclass(frozen=True)
class Shot:
    """A picture S×S×3 uint8, the masks of things that may be asked for, S×S bool each, their names, and how often each
    should be asked for."""

    picture: NDArray[np.uint8]
    masks: list[NDArray[np.bool_]]
    names: list[str]
    weights: list[float]


class Album:
    """The photographs' views of one side, and the stamps of the training split."""

    def __init__(self, catalog: Catalog, side: int, held: bool = False) -> None:
        """`held`: the photographs that training does not see, for its own probe.

        Raises ValueError where no regions have been made yet.
        """
        self.files = photographs.stored(catalog.root, side, held)
        if not self.files:
            raise ValueError(f"{catalog.root} has no regions of photographs: run `python -m tiny fit --stage regions`")
        self.root, self.side = catalog.root, side
        self.names = naming.told(catalog.root)
        self.stamps = [d for d in catalog.drawings if d.style == STAMPS and d.split == "train" and _photographed(d)]

    def plain(self, number: int, pictures: int, regions: int) -> Batch:
        """Batch `number` of whole views as they are, with those of their regions that both ways agree most about."""
        shots = []
        for file in self.files[number * pictures : (number + 1) * pictures] or self.files[:pictures]:
            view = _view(file)
            if len(view.masks):
                best = np.argsort(-view.agreed)[:regions]
                names = self.names.get(file.stem, [UNKNOWN] * len(view.masks))
                shots.append(
                    Shot(view.picture, [view.masks[i] for i in best], [names[i] for i in best], [1.0] * len(best))
                )
        return self._batch(np.random.default_rng(number), shots, regions, self.side)

    def batch(self, rng: Generator, pictures: int, regions: int, side: int, known: float = 1.0) -> Batch:
        """`pictures` photographs at `side` pixels with `regions` regions each, some twice where there are fewer.

        What has a name is asked for `known` times as often as what has none.
        """
        shots: list[Shot] = []
        while len(shots) < pictures:
            shot = self.shot(rng)
            if shot.masks:
                named = [known if name != UNKNOWN else 1.0 for name in shot.names]
                weights = [weight * factor for weight, factor in zip(shot.weights, named, strict=True)]
                shots.append(replace(shot, weights=weights))
        return self._batch(rng, shots, regions, side)

    def _batch(self, rng: Generator, shots: list[Shot], regions: int, side: int) -> Batch:
        inputs, masks, told = [], [], []
        for shot in shots:
            picture, own = shot.picture, shot.masks
            if side != self.side:
                picture = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA).astype(np.uint8)
                small = [cv2.resize(m.astype(np.uint8), (side, side), interpolation=cv2.INTER_NEAREST) > 0 for m in own]
                own = [new if new.any() else _dot(old, side) for new, old in zip(small, own, strict=True)]
            inputs.append(torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1).float() / 255)
            chances = np.array(shot.weights) / sum(shot.weights)
            picks = rng.choice(len(own), min(regions, len(own)), replace=False, p=chances)
            for index in (list(picks) * regions)[:regions]:
                masks.append(own[index])
                told.append(_truth(rng, picture, own, shot.names, int(index)))
        stack = np.stack(masks)
        return Batch(
            (torch.stack(inputs) - MEAN[:, None, None]) / STD[:, None, None],
            stack,
            functional.avg_pool2d(torch.from_numpy(stack)[:, None].float(), 4),
            torch.tensor([NAMES.index(t.kind) for t in told]),
            torch.tensor([list(COLOURS).index(t.colour) for t in told]),
            torch.tensor([list(PLACES).index(t.place) for t in told]),
            torch.full((len(shots), side // 16, side // 16), -1),
            tuple(told),
            of_photographs=True,
        )

    def shot(self, rng: Generator) -> Shot:
        """One photograph as it is learned from: perhaps a part of it, mirrored, with things pasted, in new light."""
        file = self.files[rng.integers(len(self.files))]
        view = _view(file)
        names = self.names.get(file.stem, [UNKNOWN] * len(view.masks))
        picture, masks = _looked_into(rng, view.picture, view.masks)
        before = [int(mask.sum()) for mask in masks]
        canvas = picture.astype(np.float32)
        pasted: list[NDArray[np.bool_]] = []
        labels: list[str] = []
        for _ in range(int(rng.choice(len(_PASTED), p=_PASTED))):
            cut = self._cut(rng)
            if cut is None:
                continue
            canvas, mask = _paste(rng, canvas, cut[0])
            masks = [own & ~mask for own in masks]
            pasted = [own & ~mask for own in pasted]
            pasted.append(mask)
            labels.append(cut[1])
        shown = develop(rng, canvas)
        kept = Shot(shown, [], [], [])
        for mask, name, agreed, size in zip(masks, names, view.agreed, before, strict=True):
            if max(_LEAST, (1 - _GONE) * size) <= mask.sum() <= _MOST * mask.size:
                kept.masks.append(mask)
                kept.names.append(name)
                kept.weights.append(float(agreed))
        for mask, name in zip(pasted, labels, strict=True):
            if mask.sum() >= _LEAST:
                kept.masks.append(mask)
                kept.names.append(name)
                kept.weights.append(2.0)
        return kept

    def _cut(self, rng: Generator) -> tuple[NDArray[np.uint8], str] | None:
        """An RGBA cut-out of something photographed, and its name."""
        if self.stamps and rng.random() > _FROM_PHOTOGRAPHS:
            stamp = self.stamps[rng.integers(len(self.stamps))]
            return _stamp(str(self.root / stamp.file)), stamp.label or UNKNOWN
        file = self.files[rng.integers(len(self.files))]
        view = _view(file)
        edge = view.masks[:, [0, -1]].any((1, 2)) | view.masks[:, :, [0, -1]].any((1, 2))
        fit = np.flatnonzero((view.agreed >= _CLEAR) & ~edge)
        if not len(fit):
            return None
        number = int(rng.choice(fit))
        alpha = cv2.GaussianBlur(view.masks[number].astype(np.float32), (0, 0), 0.8)
        names = self.names.get(file.stem)
        cut = np.dstack([view.picture, (255 * alpha).astype(np.uint8)])
        return trim(cut), names[number] if names else UNKNOWN


def _photographed(drawing: Drawing) -> bool:
    return "cartoon" not in drawing.name and "cartoon" not in drawing.file


@lru_cache(maxsize=600)
def _packed(file: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float32]]:
    view = photographs.read(file)
    return view.picture, np.packbits(view.masks.reshape(len(view.masks), -1), axis=1), view.agreed


def _view(file: Path) -> photographs.View:
    picture, bits, agreed = _packed(file)
    high, wide = picture.shape[:2]
    masks = np.unpackbits(bits, axis=1)[:, : high * wide].reshape(-1, high, wide).astype(bool)
    return photographs.View(picture, masks, agreed)


@lru_cache(maxsize=1000)
def _stamp(file: str) -> NDArray[np.uint8]:
    return np.asarray(Image.open(file).convert("RGBA"))


def _looked_into(
    rng: Generator, picture: NDArray[np.uint8], masks: NDArray[np.bool_]
) -> tuple[NDArray[np.uint8], list[NDArray[np.bool_]]]:
    """A part of the view at the view's size, with what is left of the regions; mirrored half the time."""
    side = picture.shape[0]
    own = list(masks)
    if rng.random() > _WHOLE:
        span = side * rng.uniform(0.5, 1.0)
        stretch = np.exp(rng.normal(0, 0.12))
        high, wide = min(side, int(span * stretch)), min(side, int(span / stretch))
        top, left = rng.integers(side - high + 1), rng.integers(side - wide + 1)
        part = np.s_[top : top + high, left : left + wide]
        picture = cv2.resize(picture[part], (side, side), interpolation=cv2.INTER_LINEAR).astype(np.uint8)
        # drawn smoothly at the new size: steps of the old one's pixels would be no edge of the picture
        own = [cv2.resize(mask[part].astype(np.float32), (side, side)) > 0.5 for mask in own]
    if rng.random() < 0.5:
        picture, own = picture[:, ::-1], [mask[:, ::-1] for mask in own]
    return picture, own


def _paste(
    rng: Generator, canvas: NDArray[np.float32], cut: NDArray[np.uint8]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The canvas with a cut-out laid on it in the canvas's own light, and the cut-out's mask."""
    side = canvas.shape[0]
    scale = rng.uniform(0.2, 0.65) * side / max(cut.shape[:2])
    turn = np.radians(rng.normal(0, 10))
    mirror = rng.choice([-1.0, 1.0])
    stretch = np.exp(rng.normal(0, 0.08))
    turned = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    matrix = turned @ np.diag([mirror * scale * stretch, scale / stretch])
    middle = tuple(float(v) for v in rng.uniform(0.05, 0.95, 2) * side)
    colour, alpha = lay(smoothed(cut, scale), matrix, (middle[0], middle[1]), (side, side))
    mask = alpha > 0.5
    if mask.sum() < _LEAST:
        return canvas, np.zeros_like(mask)
    near = cv2.dilate(mask.astype(np.uint8), np.ones((15, 15), np.uint8)) > 0
    ground, own = canvas[near & ~mask], colour[mask]
    if len(ground):
        # its light and tint come part of the way to those of where it lies
        pull = rng.uniform(0, 0.5)
        gain = np.clip(ground.mean() / max(own.mean(), 8), 0.5, 1.8) ** pull
        tint = (ground.mean(0) - ground.mean()) * rng.uniform(0, 0.4)
        colour = colour * gain + tint
    if rng.random() < 0.5:  # lit from one side
        rows, columns = np.mgrid[0:side, 0:side] / side - 0.5
        angle = rng.uniform(0, 2 * np.pi)
        colour = colour * (1 + rng.uniform(0, 0.5) * (rows * np.sin(angle) + columns * np.cos(angle)))[..., None]
    soft = rng.uniform(0.3, 1.3)
    alpha = cv2.GaussianBlur(alpha, (0, 0), soft)
    if rng.random() < 0.5:
        colour = cv2.GaussianBlur(colour, (0, 0), rng.uniform(0.3, 1.0))
    if rng.random() < 0.5:
        canvas = shade(rng, canvas, alpha)
    mixed: NDArray[np.float32] = (canvas * (1 - alpha[..., None]) + colour * alpha[..., None]).astype(np.float32)
    return mixed, alpha > 0.5


def _dot(mask: NDArray[np.bool_], side: int) -> NDArray[np.bool_]:
    """One pixel where a region has got too small to be seen."""
    rows, columns = np.nonzero(mask)
    found = np.zeros((side, side), bool)
    found[int(rows.mean() * side / mask.shape[0]), int(columns.mean() * side / mask.shape[1])] = True
    return found


def _truth(
    rng: Generator, picture: NDArray[np.uint8], masks: list[NDArray[np.bool_]], names: list[str], number: int
) -> Truth:
    """What is seen of a region: its name, colour, place and size, and one of its neighbours where there is one."""
    mask = masks[number]
    wide = cv2.dilate(mask.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    beside = [
        i
        for i, other in enumerate(masks)
        if i != number and not (other & mask).any() and (other & wide).any() and other.sum() > mask.sum() / 4
    ]
    neighbour = None
    if beside:
        known = [i for i in beside if names[i] != UNKNOWN] or beside
        other = known[int(rng.integers(len(known)))]
        neighbour = Neighbour("beside", names[other], looks.colour_of(picture[masks[other]]))
    colour = looks.colour_of(picture[mask])
    return Truth(names[number], colour, looks.place_of(mask), looks.size_of(mask), neighbour, surveyed=False)
