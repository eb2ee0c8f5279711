"""Scenes with several of a kind among other things, to measure how well the others are found by one of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from tiny.paint import Picture, develop, shade
from tiny.scenes import Painter, Scene, lay, smoothed, things_of

MOST = 8
"""Of the kind, in a scene; two at least."""
_OTHERS = 4
_OVERLAP = 0.03  # of a thing that another may hide
_STREAM = 24  # sets these scenes apart from the painter's own


@dataclass(frozen=True)
class Several:
    """A scene; the kind of which it has several, and the drawing that all of them show."""

    scene: Scene
    kind: str
    source: str


def several(painter: Painter, number: int) -> Several:
    """Scene `number` (0, 1, …) of a painter: one drawing two to eight times in like colours and sizes, and up to four
    things of other kinds. All are seen nearly whole."""
    rng = np.random.default_rng([painter.seed, painter.code, number, _STREAM])
    width, height = ((320, 240), (240, 320), (288, 288), (352, 224))[rng.integers(4)]
    short = min(width, height)
    kind, source, cut = painter.thing(rng, unknown_share=0)
    side = rng.uniform(0.2, 0.32) * short
    wanted = [(kind, source, cut, side * rng.uniform(0.8, 1.25)) for _ in range(rng.integers(2, MOST + 1))]
    for _ in range(rng.integers(1, _OTHERS + 1)):
        other = painter.thing(rng)
        if other[0] != kind:
            wanted.insert(int(rng.integers(len(wanted) + 1)), (*other, rng.uniform(0.18, 0.36) * short))
    canvas = painter.background(rng, width, height).astype(np.float32)
    owner = np.full((height, width), -1, np.int16)
    whole: list[NDArray[np.bool_]] = []
    chosen: list[tuple[str, str]] = []
    for name, file, picture, length in wanted:
        layer = _free_place(rng, picture, length, owner, whole)
        if layer is None:
            continue
        colour, alpha = layer
        if rng.random() < 0.3:
            canvas = shade(rng, canvas, alpha)
        canvas = canvas * (1 - alpha[..., None]) + colour * alpha[..., None]
        owner[alpha > 0.5] = len(whole)
        whole.append(alpha > 0.5)
        chosen.append((name, file))
    picture = develop(rng, canvas)
    return Several(Scene(picture, tuple(things_of(picture, owner, whole, chosen))), kind, source)


def _free_place(
    rng: Generator, cut: Picture, side: float, owner: NDArray[np.int16], whole: list[NDArray[np.bool_]]
) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """The cut-out `side` pixels long where it hides nearly nothing: colour H×W×3, alpha H×W in 0…1; None: no room."""
    height, width = owner.shape
    scale = side / max(cut.shape[:2])
    source = smoothed(cut, scale)
    for _ in range(12):
        turn = np.radians(rng.normal(0, 12) if rng.random() < 0.8 else rng.uniform(-180, 180))
        flip = -1.0 if rng.random() < 0.5 else 1.0
        matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ np.diag(
            [flip * scale, scale]
        )
        middle = (rng.uniform(0.5 * side, width - 0.5 * side), rng.uniform(0.5 * side, height - 0.5 * side))
        colour, alpha = lay(source, matrix, middle, (width, height))
        mask = alpha > 0.5
        if mask.sum() >= 60 and all((mask & other).sum() <= _OVERLAP * other.sum() for other in whole):
            return colour, alpha
    return None
