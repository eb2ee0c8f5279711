"""Finding all of a kind: what it costs against one encode, and how many of counted things are found in photographs.

    python -m benchmarks.finding [--checkpoint tiny] [--repeats 3] [--candidates 256]
    python -m benchmarks.finding --tower [--repeats 3]
    python -m benchmarks.finding --counted [--checkpoint tiny]

The first takes a scene of the demo: the clicks that candidates for words come from, what is left of them, and questions
against 256 candidates, the answers to all clicks, good or not; in CPU seconds of all threads, and as so many encodes.
The first word is what the model itself calls one of them, so that few are hopeless; a phrase has a colour before it.
The second takes SAM 2.1-large with random weights: an encode, the clicks, and the clicks with what is done to their
answers to make proposals, or candidates for words, of them.
The third asks in each photograph of `demo/counted` by the first thing of a kind and by the kind's name. Found is right
where its box has an IoU of at least 0.5 with that of a thing, each thing once; by example, the example does not count.
An example that the checkpoint has no mask of finds nothing.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from PIL import Image
from rich.console import Console

from benchmarks.weights import SAM2
from model import PerceiveAnything, Prompt, Region, Task
from model.finding import seen as sight
from model.finding.candidates import Candidates, decoded, grid
from model.loading.sam import empty_sam2, packaged_config
from model.sam.proposals import Wanted, distinct, propose
from model.sam.tower import PROMPTS_ON_GPU, Tower
from model.values.mask import Box

DEMO = Path(__file__).parent.parent / "demo"
PICTURE = DEMO / "scenes" / "test-11-00018.png"


def cpu_seconds(work: Callable[[], Any], repeats: int) -> float:
    """The median of so many calls, all threads of the process together."""
    found = []
    for _ in range(repeats):
        begin = time.process_time()
        work()
        found.append(time.process_time() - begin)
    return median(found)


def everything(candidates: Candidates, count: int) -> Candidates:
    """So many candidates: all there are, and some of them again."""
    return candidates.take([i % len(candidates) for i in range(count)])


def costs(pam: PerceiveAnything, image: Image.Image, repeats: int, count: int) -> dict[str, float]:
    """CPU seconds by what is done; "encode" is one encode of the picture."""
    embedding = pam.encode(image)
    seeing, clicks = pam.search.seeing, grid(embedding, sight.POINTS_PER_SIDE)
    found = {
        "encode": cpu_seconds(lambda: pam.encode(image), max(5, repeats)),
        f"{len(clicks)} clicks decoded": cpu_seconds(lambda: decoded(pam.tower, embedding, clicks), repeats),
        "candidates": cpu_seconds(lambda: seeing.look(pam.encode(image), 1), repeats),
    }
    if not len(decoded(pam.tower, embedding, clicks)):
        raise SystemExit("this checkpoint answers no click on the picture: nothing to hold against words")
    many = everything(decoded(pam.tower, embedding, clicks, room=seeing.room), count)
    (texts,) = pam.describe(pam.segment(embedding, [many.prompts[0]]), [Task.RECOGNIZE])
    own = texts[Task.RECOGNIZE].string
    for name, first, following in (("a word", own, "spoon"), ("a phrase", f"red {own}", "blue spoon")):
        seconds = []
        for _ in range(repeats):
            seen = seeing.holding(embedding, many)
            seconds.append([cpu_seconds(lambda s=seen, t=text: seeing.fit(s, [t]), 1) for text in (first, following)])  # type: ignore[misc]
        for which, some in zip(("first", "next"), zip(*seconds, strict=True), strict=True):
            found[f"{name} against {count}, {which}"] = median(some)
    return found


def tower_costs(tower: Tower, image: Image.Image, repeats: int) -> dict[str, float]:
    """CPU seconds of one encode, and of proposals; every answer is good enough, since random weights say nothing."""
    (embedding,) = tower.encode([image])
    clicks = grid(embedding, sight.POINTS_PER_SIDE)
    everything = Wanted(sight.POINTS_PER_SIDE, 0.0, 0.0, 1.0, 0.0, 1)
    works = {
        "encode": lambda: tower.encode([image]),
        f"{len(clicks)} clicks decoded": lambda: [
            tower.decode(embedding, *tower.tensors(embedding, clicks[i : i + PROMPTS_ON_GPU]))
            for i in range(0, len(clicks), PROMPTS_ON_GPU)
        ],
        "proposals": lambda: propose(tower, tower.encode, embedding, everything, 1),
        "candidates": lambda: distinct(decoded(tower, embedding, clicks).masks, sight.MOST_OVERLAP, sight.READ),
    }
    return {name: cpu_seconds(work, repeats) for name, work in works.items()}


def counted(pam: PerceiveAnything) -> list[tuple[str, str, int, int, int, int, int]]:
    """Of each photograph and kind: things, found and right by example (one fewer to find), found and right by name."""
    rows = []
    folder = DEMO / "counted"
    for one in json.loads((folder / "truth.json").read_text(encoding="utf-8"))["counted"]:
        with Image.open(folder / one["file"]) as file:
            embedding = pam.encode(file.convert("RGB"))
        boxes: list[Box] = [tuple(box) for box in one["boxes"]]
        (example,) = pam.segment(embedding, [Prompt(box=boxes[0])])
        by_example = pam.alike(embedding, [example]) if example.mask.any() else []
        by_name = pam.find(embedding, one["kind"])
        rows.append(
            (
                *(one["file"], one["kind"], len(boxes)),
                *(len(by_example), right(by_example, boxes[1:])),
                *(len(by_name), right(by_name, boxes)),
            )
        )
    return rows


def right(found: Sequence[Region], boxes: Sequence[Box]) -> int:
    """How many things are found; the surest find of each counts."""
    left = list(boxes)
    for region in found:
        best = max(left, key=lambda box: box_iou(region.box, box), default=None)
        if best is not None and box_iou(region.box, best) >= 0.5:
            left.remove(best)
    return len(boxes) - len(left)


def box_iou(one: Box | None, other: Box) -> float:
    """Of two boxes, 0..1."""
    if one is None:
        return 0.0
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    common = max(0.0, across) * max(0.0, down)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return common / (areas - common)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.finding", description=__doc__)
    parser.add_argument("--checkpoint", default="tiny")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--candidates", type=int, default=256)
    parser.add_argument("--tower", action="store_true", help="proposals of SAM 2.1-large's shapes against its encode")
    parser.add_argument("--counted", action="store_true", help="photographs with counted things instead")
    given = parser.parse_args(arguments)
    console = Console(highlight=False, width=200)
    with Image.open(PICTURE) as file:
        image = file.convert("RGB")
    if given.tower:
        torch.manual_seed(0)
        console.print(f"{SAM2}, random weights, {torch.get_num_threads()} threads")
        show(console, tower_costs(Tower(empty_sam2(packaged_config(SAM2))), image, given.repeats))
        return
    pam = PerceiveAnything.from_pretrained(given.checkpoint)
    console.print(f"{pam.version}, {torch.get_num_threads()} threads")
    if given.counted:
        console.print("| photograph | kind | things | by example: found | right | by name: found | right |")
        console.print("|---|---|---|---|---|---|---|")
        for row in counted(pam):
            console.print("| " + " | ".join(map(str, row)) + " |")
        return
    show(console, costs(pam, image, given.repeats, given.candidates))


def show(console: Console, seconds: dict[str, float]) -> None:
    console.print("| what | CPU seconds | encodes |\n|---|---|---|")
    for name, value in seconds.items():
        console.print(f"| {name} | {value:.3f} | {value / seconds['encode']:.1f} |")


if __name__ == "__main__":
    main()
