"""Small things in large pictures: how well their edges are found, by their size, with and without crops.

    python -m benchmarks.large [--checkpoint tiny] [--scenes 2] [--width 6000] [--proposals 1,16] [--out FILE]

Each scene is made from its number: a ground of noise at all scales, and on it things of known outline, some of them
the drawings of `demo/scenes` (which the bundled checkpoint never saw), some smooth blobs. Each is asked for by its box
and by a click on its innermost point. Boundary IoU (arXiv 2103.16562) compares what lies within d pixels of both
outlines; d is 2 % of the diagonal of the thing's box, at least 2 pixels. `--proposals` counts instead which things are
proposed without a prompt (IoU above 0.5), with so many tiles at most.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.random import Generator
from PIL import Image
from rich.console import Console

from model import Embedding, PerceiveAnything, Prompt
from model.values.mask import from_rle, mask_box, mask_iou
from model.values.window import LARGE_SIDE, Window

SIZES = (24, 48, 96, 192, 384, 768)
"""Longer sides of things, pixels."""
SCENES = Path(__file__).parent.parent / "demo" / "scenes"


@dataclass(frozen=True, eq=False)
class Thing:
    """One thing of a scene: its place, its mask (h, w) there, and the longer side that it was made with, pixels."""

    window: Window
    mask: np.ndarray
    size: int

    @property
    def box(self) -> tuple[float, float, float, float]:
        return self.window.placed(mask_box(self.mask) or (0, 0, 1, 1))

    @property
    def click(self) -> tuple[float, float, int]:
        """The point that lies deepest in it."""
        depth = cv2.distanceTransform(np.pad(self.mask, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
        row, column = np.unravel_index(int(depth.argmax()), depth.shape)
        return self.window.left + float(column) + 0.5, self.window.top + float(row) + 0.5, 1


def drawings() -> list[np.ndarray]:
    """The things of `demo/scenes` that no edge cuts, as RGBA."""
    found = []
    for scene in json.loads((SCENES / "truth.json").read_text(encoding="utf-8"))["scenes"]:
        picture = np.asarray(Image.open(SCENES / scene["file"]).convert("RGB"))
        for thing in scene["things"]:
            mask = from_rle(thing["mask"])
            if not (mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any()):
                x1, y1, x2, y2 = map(int, mask_box(mask) or (0, 0, 1, 1))
                found.append(np.dstack([picture, mask * np.uint8(255)])[y1:y2, x1:x2])
    return found


def ground(rng: Generator, width: int, height: int) -> np.ndarray:
    """Noise at all scales in a few colours, (height, width, 3) uint8."""
    canvas = np.full((height, width, 3), rng.uniform(90, 160, 3), dtype=np.float32)
    cells, strength = 4, 40.0
    while cells < width:
        noise = rng.normal(0, strength, (max(2, cells * height // width), cells, 3)).astype(np.float32)
        np.add(canvas, cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC), out=canvas)
        cells, strength = cells * 4, strength * 0.55
    found: np.ndarray = np.clip(canvas, 0, 255).astype(np.uint8)
    return found


def blob(rng: Generator, size: int) -> np.ndarray:
    """A smooth shape of one colour with a slope in it, RGBA (size, size)."""
    rows, columns = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    turn, reach = np.arctan2(rows, columns), np.hypot(rows, columns)
    waves = [rng.uniform(0, 0.2 / k) * np.cos(k * turn + rng.uniform(0, 6.3)) for k in range(1, 6)]
    edge = 0.65 + np.sum(waves, axis=0)
    colour = rng.uniform(0, 255, 3) + rng.uniform(-40, 40, 3) * rows[..., None]
    alpha = np.clip((edge - reach) * size / 2 + 0.5, 0, 1) * 255
    return np.dstack([np.clip(colour, 0, 255), alpha]).astype(np.uint8)


def scene(number: int, width: int, height: int, each: int = 8) -> tuple[Image.Image, list[Thing]]:
    """A picture and its things, so many of each size; none covers another."""
    rng = np.random.default_rng([26, number])
    canvas, cuts, taken = ground(rng, width, height), drawings(), np.zeros((height, width), bool)
    things: list[Thing] = []
    for size in sorted(SIZES * each, reverse=True):
        cut = blob(rng, size) if rng.random() < 0.5 else cuts[rng.integers(len(cuts))]
        scale = size / max(cut.shape[:2])
        across, down = max(4, round(cut.shape[1] * scale)), max(4, round(cut.shape[0] * scale))
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        cut = cv2.resize(cut, (across, down), interpolation=how).astype(np.float32)
        for _ in range(200):
            window = Window(int(rng.integers(width - across)), int(rng.integers(height - down)), across, down)
            place = np.s_[window.top : window.bottom, window.left : window.right]
            mask = cut[..., 3] > 127
            if not taken[place].any() and mask.any():
                share = cut[..., 3:] / 255
                canvas[place] = np.clip(canvas[place] * (1 - share) + cut[..., :3] * share, 0, 255).astype(np.uint8)
                taken[place] = True
                things.append(Thing(window, mask, size))
                break
    return Image.fromarray(canvas), things


def boundary_iou(found: np.ndarray, truth: np.ndarray) -> float:
    """Of two boolean masks (H, W), 0..1; see the module."""
    box = mask_box(truth)
    assert box is not None
    depth = max(2.0, 0.02 * float(np.hypot(box[2] - box[0], box[3] - box[1])))
    bands = []
    for mask in (found, truth):
        inside = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
        bands.append(mask & (inside <= depth))
    return mask_iou(*bands)


def near(thing: Thing, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A whole picture's mask and the thing's, both of the smallest window that holds them."""
    x1, y1, x2, y2 = map(int, mask_box(mask) or thing.box)
    window = thing.window
    left, top, right, bottom = min(x1, window.left), min(y1, window.top), max(x2, window.right), max(y2, window.bottom)
    truth = Window(window.left - left, window.top - top, window.width, window.height).pasted(
        thing.mask, right - left, bottom - top
    )
    return mask[top:bottom, left:right], truth


def judged(pam: PerceiveAnything, embedding: Embedding, things: list[Thing], by: str) -> Iterator[tuple[int, float]]:
    """The size and the boundary IoU of each thing, asked for by its box or by a click."""
    for thing in things:
        prompt = Prompt(box=thing.box) if by == "box" else Prompt(points=[thing.click])
        (region,) = pam.segment(embedding, [prompt])
        yield thing.size, boundary_iou(*near(thing, region.mask))


def proposed(
    pam: PerceiveAnything, embedding: Embedding, things: list[Thing], tiles: int
) -> Iterator[tuple[int, bool]]:
    """The size of each thing, and whether it is among the proposals."""
    found = [region.mask for region in pam.propose(embedding, max_tiles=tiles)]
    for thing in things:
        yield thing.size, any(mask_iou(*near(thing, mask)) > 0.5 for mask in found if mask.any())


def count_proposals(pam: PerceiveAnything, given: argparse.Namespace, console: Console) -> None:
    """A row for each number of tiles."""
    console.print("| tiles at most | " + " | ".join(f"{size} px" for size in SIZES) + " | CPU s a scene |")
    for tiles in map(int, given.proposals.split(",")):
        hits: dict[int, list[bool]] = defaultdict(list)
        begin = time.process_time()
        for number in range(given.scenes):
            image, things = scene(number, given.width, given.width * 3 // 4, given.each)
            for size, hit in proposed(pam, pam.encode(image), things, tiles):
                hits[size].append(hit)
        seconds = (time.process_time() - begin) / given.scenes
        cells = [f"{sum(hits[size])} of {len(hits[size])}" for size in SIZES]
        console.print(f"| {tiles} | " + " | ".join(cells) + f" | {seconds:.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large", description=__doc__)
    parser.add_argument("--checkpoint", default="tiny")
    parser.add_argument("--scenes", type=int, default=2)
    parser.add_argument("--each", type=int, default=8, help="things of each size in a scene")
    parser.add_argument("--width", type=int, default=6000)
    parser.add_argument("--proposals", help="numbers of tiles, separated by commas: count proposals instead")
    parser.add_argument("--out", type=Path, help="also write the first scene, as a PNG")
    given = parser.parse_args()
    pam = PerceiveAnything.from_pretrained(given.checkpoint)
    console = Console(highlight=False, width=200)
    if given.proposals:
        count_proposals(pam, given, console)
        return
    found: dict[tuple[str, bool, int], list[float]] = defaultdict(list)
    seconds: dict[bool, list[float]] = defaultdict(list)
    for number in range(given.scenes):
        image, things = scene(number, given.width, given.width * 3 // 4, given.each)
        if given.out is not None and number == 0:
            image.save(given.out)
        for crops in (False, True):
            embedding = pam.encode(image, LARGE_SIDE if crops else 0)
            for by in ("box", "click"):
                begin = time.perf_counter()
                for size, value in judged(pam, embedding, things, by):
                    found[by, crops, size].append(value)
                seconds[crops].append((time.perf_counter() - begin) / len(things))
    console.print(f"{pam.version}, {given.width}×{given.width * 3 // 4} pixels, mean boundary IoU")
    console.print(
        "| longer side, px | things | box, whole | box, crop | click, whole | click, crop |\n|---|---|---|---|---|---|"
    )
    for size in SIZES:
        row = [
            sum(found[by, crops, size]) / max(1, len(found[by, crops, size]))
            for by in ("box", "click")
            for crops in (False, True)
        ]
        console.print(
            f"| {size} | {len(found['box', True, size])} | " + " | ".join(f"{value:.3f}" for value in row) + " |"
        )
    whole_s, crops_s = np.mean(seconds[False]), np.mean(seconds[True])
    console.print(f"seconds a thing, judging included: {whole_s:.2f} as a whole, {crops_s:.2f} with crops")


if __name__ == "__main__":
    main()
