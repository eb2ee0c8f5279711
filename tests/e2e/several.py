"""A picture with three of a kind and two of another, put together from things of the demo's scenes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from demo.truth import Mask, Scene, Thing

SIZE = (400, 300)
PLACES = ((80, 80), (300, 90), (200, 225))
OTHERS = ((75, 225), (330, 225))
SIDE = 95


def several(scenes: dict[str, Scene], kind: tuple[str, str], other: tuple[str, str], file: Path) -> list[Mask]:
    """Write the picture; the masks of the three. `kind` and `other` are scene and class of a thing each."""
    ramp = np.linspace(0, 1, SIZE[1])[:, None, None]
    canvas = np.asarray([205, 220, 200]) * ramp + np.asarray([235, 230, 215]) * (1 - ramp)
    picture = Image.fromarray(np.broadcast_to(canvas, (SIZE[1], SIZE[0], 3)).astype(np.uint8))
    masks = [_paste(picture, scenes[kind[0]], scenes[kind[0]].thing(kind[1]), place) for place in PLACES]
    for place in OTHERS:
        _paste(picture, scenes[other[0]], scenes[other[0]].thing(other[1]), place)
    picture.save(file)
    return masks


def _paste(picture: Image.Image, scene: Scene, thing: Thing, middle: tuple[int, int]) -> Mask:
    rows, columns = np.nonzero(thing.mask)
    box = (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
    cut, mask = Image.open(scene.picture).convert("RGB").crop(box), Image.fromarray(thing.mask).crop(box)
    scale = SIDE / max(cut.size)
    size = (round(cut.width * scale), round(cut.height * scale))
    cut, mask = cut.resize(size, Image.Resampling.LANCZOS), mask.resize(size)
    corner = (middle[0] - size[0] // 2, middle[1] - size[1] // 2)
    picture.paste(cut, corner, mask)
    whole = Image.new("1", SIZE)
    whole.paste(mask, corner)
    return np.asarray(whole)
