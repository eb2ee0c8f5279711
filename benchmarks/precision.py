"""What a lower dtype costs against float32: masks, first logits, greedy tokens; and a batch against one by one.

    python -m benchmarks.precision [--checkpoint tiny] [--dtype bfloat16] [--device cpu] [--json]

On the demo's photographs and generated pictures, with boxes and clicks from a fixed seed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.plain import blocks, embed, endless, generate
from model import PerceiveAnything, Prompt, Region, Sampling, Task
from model.compute.precision import full_float32
from model.errors import ModelError
from model.values.mask import mask_iou
from model.values.task import instruction

FOLDERS = tuple(Path(__file__).parent.parent / "demo" / name for name in ("pictures", "scenes"))
TASKS = (Task.RECOGNIZE, Task.DETAILED)
Tokens = list[tuple[int, ...]]


def prompts(picture: Image.Image, rng: np.random.Generator, count: int) -> list[Prompt]:
    """Boxes and clicks, by turns."""
    found = []
    for number in range(count):
        w, h = rng.uniform(0.2, 0.6) * picture.width, rng.uniform(0.2, 0.6) * picture.height
        x, y = rng.uniform(0, picture.width - w), rng.uniform(0, picture.height - h)
        box = Prompt(box=(int(x), int(y), int(x + w), int(y + h)))
        found.append(Prompt(points=[(x + w / 2, y + h / 2, 1)]) if number % 2 else box)
    return found


def texts(pam: PerceiveAnything, regions: Sequence[Region], tokens: int, together: bool) -> Tokens:
    """The greedy tokens of each region and task."""
    parts = [regions] if together else [[region] for region in regions]
    asked, sampling = [instruction(task) for task in TASKS], Sampling(max_new_tokens=tokens, repetition_penalty=1.0)
    with endless(pam.language):
        rows = [row for part in parts for row in pam.language.answer(pam.read(part).prefix, asked, sampling)]
    return [answer.token_ids for row in rows for answer in row]


def plain_texts(pam: PerceiveAnything, regions: Sequence[Region], tokens: int, together: bool) -> Tokens:
    """The same by transformers' generate() on whole prompts."""
    sampling = Sampling(max_new_tokens=tokens, repetition_penalty=1.0)
    found: Tokens = []
    with endless(pam.language):
        for part in [regions] if together else [[region] for region in regions]:
            whole = [embed(pam.language, block, instruction(task)) for block in blocks(pam, part) for task in TASKS]
            for batch in [whole] if together else [[prompt] for prompt in whole]:
                found += [answer.token_ids for answer in generate(pam.language, batch, sampling)]
    return found


@torch.no_grad()
@full_float32
def first_logits(pam: PerceiveAnything, regions: Sequence[Region]) -> torch.Tensor:
    """(R, V) float32 on the CPU, of the first task's first token."""
    whole = [embed(pam.language, block, instruction(TASKS[0])) for block in blocks(pam, regions)]
    return torch.stack([pam.language.model(inputs_embeds=v[None]).logits[0, -1].float().cpu() for v in whole])


def same(one: Tokens, other: Tokens) -> float:
    """The share of tokens before the first that differs."""
    alike = [np.cumprod([a == b for a, b in zip(x, y, strict=True)]) for x, y in zip(one, other, strict=True)]
    return float(np.mean(np.concatenate(alike)))


def compare(exact: PerceiveAnything, low: PerceiveAnything, each: int, tokens: int) -> dict[str, float]:
    """All figures, over all pictures."""
    rng = np.random.default_rng(0)
    found: dict[str, list[float]] = {}
    files = sorted(file for folder in FOLDERS for file in folder.iterdir() if file.suffix in (".jpg", ".png"))
    for file in files:
        picture = Image.open(file).convert("RGB")
        asked = prompts(picture, rng, each)
        ours, lower = (pam.segment(pam.encode(picture), asked) for pam in (exact, low))
        golden, nearly = first_logits(exact, ours), first_logits(low, lower)
        alone = texts(low, lower, tokens, together=False)
        row = {
            "mask IoU": float(np.mean([mask_iou(a.mask, b.mask) for a, b in zip(ours, lower, strict=True)])),
            "first logits, of the largest": float((nearly - golden).abs().max() / golden.abs().max()),
            "same first token": float((nearly.argmax(1) == golden.argmax(1)).float().mean()),
            "same greedy tokens": same(alone, texts(exact, ours, tokens, together=False)),
            "batch as one by one": same(alone, texts(low, lower, tokens, together=True)),
            "batch as one by one, plain way": same(
                plain_texts(low, lower, tokens, together=False), plain_texts(low, lower, tokens, together=True)
            ),
        }
        for name, value in row.items():
            found.setdefault(name, []).append(value)
    return {
        name: max(values) if name.startswith("first logits") else float(np.mean(values))
        for name, values in found.items()
    } | {"texts": float(len(files) * each * len(TASKS))}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.precision", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--checkpoint", default="tiny", help="name or folder")
    parser.add_argument("--sam2", help="SAM 2 weights, where the folder has none")
    parser.add_argument("--config", help="their Hydra config")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="bfloat16", help="bfloat16 or float16")
    parser.add_argument("--regions", type=int, default=4, help="of each picture")
    parser.add_argument("--new-tokens", type=int, default=24)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    options = parser.parse_args(arguments)
    try:
        exact, low = (
            PerceiveAnything.from_pretrained(options.checkpoint, options.sam2, options.config, options.device, dtype)
            for dtype in ("float32", options.dtype)
        )
    except ModelError as error:
        raise SystemExit(f"error: {error}") from None
    found = compare(exact, low, options.regions, options.new_tokens)
    if options.json:
        print(json.dumps(found))
        return
    table = Table("", f"{options.dtype} against float32", title=f"{exact.version}, {exact.device}")
    for name, value in found.items():
        table.add_row(name, f"{value:.4f}" if name != "texts" else f"{value:.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
