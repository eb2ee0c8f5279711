"""Finding all of a kind: what it costs against one encode, and how many of counted things are found in photographs.

    python -m benchmarks.finding [--checkpoint tiny] [--repeats 3] [--candidates 256]
    python -m benchmarks.finding --counted [--checkpoint tiny]

The first takes a scene of the demo: the clicks that candidates for words come from, what is left of them, and questions
against 256 candidates, the answers to all clicks, good or not; in CPU seconds of all threads, and as so many encodes.
The second asks in each photograph of `demo/counted` by the first thing of a kind and by the kind's name. Found is right
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

from model import PerceiveAnything, Prompt, Region
from model.finding import seen as sight
from model.finding.candidates import Candidates, decoded, grid
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
    many = everything(decoded(pam.tower, embedding, clicks), count)
    for name, texts in (("a word", ["spoon"]), ("a phrase", ["red spoon"])):
        for number, which in enumerate(("first", "next")):
            seen = seeing.holding(embedding, many)
            if number:
                seeing.fit(seen, ["dolphin" if name == "a word" else "blue dolphin"])
            found[f"{name} against {count}, {which}"] = cpu_seconds(lambda s=seen, t=texts: seeing.fit(s, t), 1)  # type: ignore[misc]
    return found


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
    parser.add_argument("--counted", action="store_true", help="photographs with counted things instead")
    given = parser.parse_args(arguments)
    pam = PerceiveAnything.from_pretrained(given.checkpoint)
    console = Console(highlight=False, width=200)
    console.print(f"{pam.version}, {torch.get_num_threads()} threads")
    if given.counted:
        console.print("| photograph | kind | things | by example: found | right | by name: found | right |")
        console.print("|---|---|---|---|---|---|---|")
        for row in counted(pam):
            console.print("| " + " | ".join(map(str, row)) + " |")
        return
    with Image.open(PICTURE) as file:
        seconds = costs(pam, file.convert("RGB"), given.repeats, given.candidates)
    console.print("| what | CPU seconds | encodes |\n|---|---|---|")
    for name, value in seconds.items():
        console.print(f"| {name} | {value:.3f} | {value / seconds['encode']:.1f} |")


if __name__ == "__main__":
    main()
