"""What decoding JPEGs at a fraction of their size would save, and cost: masks against those of all pixels.

    python -m benchmarks.draft [--pictures demo/pictures] [--sides 1200,4000]

Pillow's draft mode lets libjpeg decode at a half, a quarter or an eighth, as long as nothing gets smaller than the
model's input; the rest of the way is the bicubic resize. Each picture is made so large first.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.pictures import PICTURE
from model import Embedding, PerceiveAnything, Prompt

_CLICKS = 6  # along each side


def decoded(pam: PerceiveAnything, data: bytes, draft: bool) -> tuple[Embedding, float]:
    """The embedding of a JPEG, in pixels of the whole picture, and the seconds that decoding took."""
    begin = time.process_time()
    image = Image.open(io.BytesIO(data))
    width, height = image.size
    if draft:
        image.draft("RGB", (pam.tower.image_size,) * 2)
    image.load()
    taken = time.process_time() - begin
    return replace(pam.encode(image, large=0), width=width, height=height), taken


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table with a row for each size."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.draft", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--checkpoint", default="tiny")
    parser.add_argument("--pictures", type=Path, default=PICTURE.parent)
    parser.add_argument("--sides", default="1200,4000", help="of the pictures, pixels across, with commas")
    options = parser.parse_args(arguments)
    pam = PerceiveAnything.from_pretrained(options.checkpoint, device="cpu")
    columns = ("whole, s", "draft, s", "mean IoU", "5th percentile", "least", "below 0.95")
    table = Table("pixels across", *columns)
    for across in map(int, options.sides.split(",")):
        ious: list[float] = []
        seconds = np.zeros(2)
        for path in sorted(options.pictures.glob("*.jpg")):
            image, held = Image.open(path).convert("RGB"), io.BytesIO()
            width, height = across, round(across * image.height / image.width)
            image.resize((width, height), Image.Resampling.LANCZOS).save(held, "JPEG", quality=92)
            found = [decoded(pam, held.getvalue(), draft) for draft in (False, True)]
            seconds += [taken for _, taken in found]
            places = (np.arange(_CLICKS) + 0.5) / _CLICKS
            clicks = [Prompt(points=[(x * width, y * height, 1)]) for x in places for y in places]
            for whole, part in zip(*(pam.segment(embedding, clicks) for embedding, _ in found), strict=True):
                union = int((whole.mask | part.mask).sum())
                ious.append(int((whole.mask & part.mask).sum()) / union if union else 1.0)
        values = np.array(ious)
        row = [*seconds, values.mean(), np.percentile(values, 5), values.min(), (values < 0.95).mean()]
        table.add_row(str(across), *(f"{value:.3f}" for value in row))
    Console().print(table)


if __name__ == "__main__":
    main()
