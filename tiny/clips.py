"""Short films with exact truth: cut-out things that move, stop, turn, cover each other, come in and leave.

The first thing of a clip is its subject: at one frame what it does changes, and nothing else about it. The same
catalogue, split, seed and number always give the same clip.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from pycocotools import mask as coco

from tiny import looks
from tiny.paint import Picture, develop
from tiny.scenes import Painter, lay, smoothed
from tiny.texts import ACTS, Truth, tell

FRAMES = 32
"""Frames of a clip, as of a clip of PAM's stream."""
RATE = 8
"""Frames per second of a clip written as a video file."""
SEEN = 40
"""Pixels that must be visible of a thing that counts as seen."""

_WAYS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
_SPEED = (0.013, 0.024)  # of the picture's diagonal, each frame
_CHANGES = {"starts": 0.3, "stops": 0.3, "turns": 0.2, "leaves": 0.2}


@dataclass(frozen=True)
class Act:
    """What a thing does on the frames first … last, both included; `name` is a key of `texts.ACTS`."""

    first: int
    last: int
    name: str


@dataclass(frozen=True)
class Actor:
    """One thing of a clip: what is true of it on its first visible frame, its visible masks (F, H, W), what it does."""

    truth: Truth
    masks: NDArray[np.bool_]
    acts: tuple[Act, ...]
    source: str

    @property
    def seen(self) -> NDArray[np.bool_]:
        """(F,): whether it can be seen on a frame."""
        return self.masks.sum((1, 2)) >= SEEN


@dataclass(frozen=True)
class Clip:
    """Frames (F, H, W, 3) uint8 RGB and the things in them, the subject first."""

    frames: NDArray[np.uint8]
    actors: tuple[Actor, ...]

    @property
    def boundaries(self) -> tuple[int, ...]:
        """Frames on which the subject begins to do something else."""
        return tuple(act.first for act in self.actors[0].acts[1:])

    def captions(self, language: str = "en") -> list[str]:
        """One sentence for each act of the subject; each after the first knows the one before."""
        acts = [act.name for act in self.actors[0].acts]
        before = [None, *acts[:-1]]
        return [tell(self.actors[0].truth, act, last, language) for act, last in zip(acts, before, strict=True)]


@dataclass(frozen=True)
class _Way:
    """Where a thing is: its middle (F, 2), its 2 × 2 matrices (F, 2, 2) and its scale on frame 0."""

    middles: NDArray[np.float64]
    matrices: NDArray[np.float64]
    scale: float


class Director:
    """Makes the clips of one split, with the drawings and grounds of a scene painter."""

    def __init__(self, painter: Painter) -> None:
        self.painter = painter

    def clip(self, number: int, frames: int = FRAMES) -> Clip:
        """Clip `number` (0, 1, …)."""
        painter = self.painter
        for attempt in range(20):
            rng = np.random.default_rng([painter.seed, 77, painter.code, number, attempt])
            width, height = ((320, 240), (288, 288), (352, 224))[rng.integers(3)]
            ground = painter.background(rng, width, height).astype(np.float32)
            acts = _plot(rng, frames)
            cast = [painter.thing(rng, UNKNOWN_SHARE if i else 0.0) for i in range(int(rng.integers(1, 4)))]
            ways = [_way(rng, cast[0][2], width, height, acts)]
            ways += [_stroll(rng, cut, width, height, frames) for _, _, cut in cast[1:]]
            order = [int(i) for i in rng.permutation(len(cast))]
            clip = _film(rng, ground, cast, ways, order, acts)
            if clip is not None:
                return clip
        raise RuntimeError(f"clip {number} of seed {painter.seed} could not be made")


UNKNOWN_SHARE = 0.2
"""Of the things beside the subject that are outside the class table."""


def _plot(rng: Generator, frames: int) -> list[Act]:
    change = str(rng.choice(list(_CHANGES), p=list(_CHANGES.values())))
    edge = int(rng.integers(round(0.35 * frames), round(0.65 * frames) + 1))
    way = str(rng.choice(list(_WAYS)))
    others = [name for name in _WAYS if name != way]
    pair = {
        "starts": ("still", way),
        "stops": (way, "still"),
        "turns": (way, str(rng.choice(others))),
        "leaves": (way, "gone"),
    }[change]
    return [Act(0, edge - 1, pair[0]), Act(edge, frames - 1, pair[1])]


def _way(rng: Generator, cut: Picture, width: int, height: int, acts: list[Act]) -> _Way:
    """The subject's way, inside the picture while it is to be seen."""
    side = rng.uniform(0.28, 0.5) * min(width, height)
    diagonal = float(np.hypot(width, height))
    steps = np.zeros((acts[-1].last + 1, 2))
    for act in acts:
        speed = rng.uniform(*_SPEED) * diagonal
        if act.name == "gone":
            # out on the way that it was going, fast enough to be gone soon
            heading = np.array(_WAYS[acts[0].name])
            steps[act.first :] = heading * 0.2 * diagonal
        elif act.name != "still":
            steps[act.first : act.last + 1] = np.array(_WAYS[act.name]) * speed
    path = np.cumsum(steps, 0)
    inside = path[: acts[-1].first] if acts[-1].name == "gone" else path
    low, high = inside.min(0), inside.max(0)
    room = np.array([width, height]) - 0.8 * side - (high - low)
    if (room < 0).any():  # too far for this picture: slower
        path *= 0.6 * np.clip((np.array([width, height]) - 0.8 * side) / np.maximum(high - low, 1), 0, 1).min()
        low, high = low * 0.6, high * 0.6
        room = np.maximum(np.array([width, height]) - 0.8 * side - (high - low), 0)
    start = 0.4 * side - low + rng.uniform(0, 1, 2) * room
    return _moving(rng, cut, side, start + path)


def _stroll(rng: Generator, cut: Picture, width: int, height: int, frames: int) -> _Way:
    """Another thing: it stays, moves, comes in or leaves."""
    side = rng.uniform(0.22, 0.4) * min(width, height)
    start = rng.uniform(-0.1, 1.1, 2) * (width, height)
    end = start if rng.random() < 0.4 else rng.uniform(-0.2, 1.2, 2) * (width, height)
    share = np.linspace(0, 1, frames)[:, None]
    return _moving(rng, cut, side, start + share * (end - start))


def _moving(rng: Generator, cut: Picture, side: float, middles: NDArray[np.float64]) -> _Way:
    scale = side / max(cut.shape[:2])
    times = np.arange(len(middles))
    turns = np.radians(rng.normal(0, 10) + rng.uniform(0, 8) * np.sin(times * rng.uniform(0.1, 0.5)))
    growth = rng.uniform(0.993, 1.007) ** times
    flip = np.diag([-1.0 if rng.random() < 0.5 else 1.0, 1.0])
    cos, sin = np.cos(turns), np.sin(turns)
    matrices = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2) @ flip
    return _Way(middles, matrices * (scale * growth)[:, None, None], scale)


def _film(
    rng: Generator,
    ground: NDArray[Any],
    cast: list[tuple[str, str, Picture]],
    ways: list[_Way],
    order: list[int],
    acts: list[Act],
) -> Clip | None:
    """Draw every frame; None when the subject is hidden where it should be seen, or seen where it should be gone."""
    height, width = ground.shape[:2]
    sources = [smoothed(cut, way.scale) for (_, _, cut), way in zip(cast, ways, strict=True)]
    light = int(rng.integers(1 << 30))  # one light and one grain for the whole clip
    pictures, masks = [], np.zeros((len(cast), acts[-1].last + 1, height, width), bool)
    for time in range(acts[-1].last + 1):
        canvas = ground
        for index in order:
            way = ways[index]
            colour, alpha = lay(sources[index], way.matrices[time], tuple(way.middles[time]), (width, height))
            canvas = canvas * (1 - alpha[..., None]) + colour * alpha[..., None]
            masks[:, time] &= ~(alpha > 0.5)
            masks[index, time] = alpha > 0.5
        pictures.append(develop(np.random.default_rng(light), canvas))
    frames = np.stack(pictures)
    shown = masks.sum((2, 3))
    gone = acts[-1].first if acts[-1].name == "gone" else len(frames)
    full = shown[0, 0]
    if full < 300 or (shown[0, :gone] < 0.35 * full).any():
        return None
    if gone < len(frames):
        left = np.flatnonzero(shown[0] >= SEEN)[-1] + 1
        if len(frames) - left < 6:
            return None
        acts = [Act(0, int(left) - 1, acts[0].name), Act(int(left), len(frames) - 1, "gone")]
    actors = []
    for index, (kind, source, _) in enumerate(cast):
        visible = np.flatnonzero(shown[index] >= SEEN)
        if not len(visible):
            continue
        first = int(visible[0])
        mask = masks[index, first]
        truth = Truth(kind, looks.colour_of(frames[first][mask]), looks.place_of(mask), looks.size_of(mask))
        actors.append(Actor(truth, masks[index], tuple(acts) if index == 0 else (), source))
    return Clip(frames, tuple(actors))


def export(director: Director, count: int, folder: Path) -> Path:
    """Write `count` MP4 files and clips.json (frame by frame: masks as RLE, boxes, whether seen) to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        clip = director.clip(number)
        name = f"{director.painter.split}-{director.painter.seed}-{number:05d}.mp4"
        write(clip.frames, folder / name)
        things = [
            {
                "class": actor.truth.kind,
                "colour": actor.truth.colour,
                "source": actor.source,
                "seen": actor.seen.tolist(),
                "boxes": [looks.box_of(mask) if mask.any() else None for mask in actor.masks],
                "masks": [_rle(mask) for mask in actor.masks],
                "acts": [vars(act) for act in actor.acts],
            }
            for actor in clip.actors
        ]
        height, width = clip.frames.shape[1:3]
        rows.append(
            {
                "file": name,
                "width": width,
                "height": height,
                "frames": len(clip.frames),
                "frame_rate": RATE,
                "boundaries": clip.boundaries,
                "captions": {language: clip.captions(language) for language in ("en", "zh")},
                "things": things,
            }
        )
    target = folder / "clips.json"
    data = {"split": director.painter.split, "seed": director.painter.seed, "acts": list(ACTS), "clips": rows}
    target.write_text(json.dumps(data, indent=1, ensure_ascii=False), encoding="utf-8")
    return target


def write(frames: NDArray[np.uint8], file: Path) -> None:
    """Write frames (F, H, W, 3) as an H.264 video of RATE frames per second; sides must be even."""
    import av  # only files need it

    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"crf": "12", "g": "8"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for packet in _packets(stream, frames):
            container.mux(packet)


def _packets(stream: Any, frames: NDArray[np.uint8]) -> Iterator[Any]:
    import av

    for picture in frames:
        yield from stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24"))
    yield from stream.encode(None)


def _rle(mask: NDArray[np.bool_]) -> dict[str, object]:
    code = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(code["size"]), "counts": code["counts"].decode("ascii")}
