"""`python -m model find`: all things of a kind in a picture, by words or by examples."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.errors import PromptError

if TYPE_CHECKING:
    from model.pam import PerceiveAnything
    from model.values.region import Found

_BOX = ("X1", "Y1", "X2", "Y2")


def add_arguments(commands: Any, model: argparse.ArgumentParser) -> None:
    """The command and its arguments; `model` has those that say which model and how it is loaded."""
    find = commands.add_parser(
        "find",
        parents=[model],
        help="all things of a kind in a picture, by a word or by an example",
        description="Words and examples may stand together. What is named or shown several times is one kind.",
    )
    find.add_argument("image", type=Path, help="a picture (JPEG, PNG, WebP, GIF, BMP, TIFF)")
    find.add_argument("--text", action="append", default=[], help='a name or a short phrase: "mug", "red mug"')
    find.add_argument(
        "--like", nargs=4, type=float, action="append", default=[], metavar=_BOX, help="a box around an example"
    )
    find.add_argument(
        "--unlike", nargs=4, type=float, action="append", default=[], metavar=_BOX, help="a box around what is none"
    )
    find.add_argument("--limit", type=int, default=64, help="regions at most (64)")
    find.add_argument("--threshold", type=float, help="of the score, 0 to 1 (0.5)")
    find.add_argument("--json", action="store_true", help="one JSON object on standard output")
    find.add_argument("--out", type=Path, help="write the picture with masks and scores")


def run(options: argparse.Namespace, load: Callable[[], PerceiveAnything]) -> int:
    """The command.

    Raises:
        PromptError: nothing to look for, or an example that is not on the picture.
        ValueError: a number out of its range.
    """
    from model import Prompt, open_picture

    if not options.text and not options.like:
        raise PromptError("nothing to look for: give --text WORDS or --like X1 Y1 X2 Y2")
    if options.unlike and not options.like:
        raise PromptError("--unlike goes with --like: counter-examples say which of the things alike are not meant")
    image = open_picture(options.image)
    prompts = [Prompt(box=tuple(box)) for box in (*options.like, *options.unlike)]
    for prompt in prompts:
        prompt.check_inside(image.width, image.height)
    pam = load()
    embedding = pam.encode(image)
    examples = pam.segment(embedding, prompts)
    like, unlike = examples[: len(options.like)], examples[len(options.like) :]
    found = pam.find(embedding, options.text, like, unlike, limit=options.limit, threshold=options.threshold)
    if options.out:
        from model.overlay import draw_regions

        regions = [*like, *found]
        captions = ["example"] * len(like) + [f"{one.score:.2f}" for one in found]
        marks = [*prompts[: len(like)], *[Prompt(box=one.box) for one in found]]
        draw_regions(image, [region.mask for region in regions], marks, captions).save(options.out)
    print(_as_json(found, pam, image.size) if options.json else _as_lines(found))
    return 0


def _as_json(found: Sequence[Found], pam: PerceiveAnything, size: tuple[int, int]) -> str:
    from model.values.region import region_to_json

    answer = {
        "model": pam.version,
        "device": str(pam.device),
        "width": size[0],
        "height": size[1],
        "regions": [region_to_json(one, {}) | {"score": one.score} for one in found],
    }
    return json.dumps(answer, ensure_ascii=False)


def _as_lines(found: Sequence[Found]) -> str:
    if not found:
        return "nothing found"
    lines = []
    for number, one in enumerate(found, start=1):
        box = ", ".join(f"{v:g}" for v in one.box or ())
        lines.append(f"region {number}: score {one.score:.2f}, {one.area} pixels, box {box}, IoU {one.iou:.2f}")
    return "\n".join(lines)
