"""Seconds for the likelihood of many labels: packed behind one prompt, against one label at a time.

    python -m benchmarks.labels [--checkpoint tiny] [--labels 10,100,300,1000]

The plain way reads the whole prompt again with each label. Both run in this process, alternating, after a warm-up.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from statistics import median

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.pictures import PICTURE
from benchmarks.plain import blocks, embed
from model import PerceiveAnything, Prompt, Region, Task
from model.values.task import instruction
from tiny.art import kinds
from tiny.looks import COLOURS


def labels(count: int) -> list[str]:
    """Different labels: the classes of the bundled checkpoint, then the same in colours. At most 1536."""
    names = list(kinds())
    return [*names, *(f"{colour} {name}" for colour in COLOURS for name in names)][:count]


@torch.no_grad()
def one_at_a_time(pam: PerceiveAnything, region: Region, candidates: Sequence[str]) -> np.ndarray:
    """The plain way, float32 (N,): prompt and label in one sequence, once for each label."""
    language = pam.language
    prompt = embed(language, blocks(pam, [region])[0], instruction(Task.RECOGNIZE))
    table = language.model.get_input_embeddings()
    scores = []
    for candidate in candidates:
        ids = [*language.tokenizer(candidate, add_special_tokens=False)["input_ids"], language.end_ids()[0]]
        targets = torch.tensor(ids, device=prompt.device)
        vectors = torch.cat([prompt, table(targets)])
        logits = language.model(inputs_embeds=vectors[None], logits_to_keep=len(ids) + 1).logits[0, :-1]
        scores.append(float(logits.float().log_softmax(-1).gather(1, targets[:, None]).sum()))
    return np.asarray(scores, dtype=np.float32)


def seconds(work: Callable[[], np.ndarray], device: torch.device) -> float:
    """Wall-clock time of one call."""
    begin = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.labels", description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", default="tiny", help="name or folder")
    parser.add_argument("--labels", default="10,100,300,1000", help="numbers of labels, with commas; 1536 at most")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args(arguments)
    pam = PerceiveAnything.from_pretrained(options.checkpoint, device=options.device)
    picture = Image.open(PICTURE)
    (region,) = pam.segment(pam.encode(picture), [Prompt(box=(170, 10, 410, 310))])
    table = Table("labels", "tokens", "packed, s", "one at a time, s", "ratio", "largest difference")
    for count in map(int, options.labels.split(",")):
        candidates = labels(count)
        tokens = sum(len(pam.language.tokenizer(name)["input_ids"]) for name in candidates)
        difference = np.abs(pam.score([region], candidates)[0] - one_at_a_time(pam, region, candidates)).max()
        pairs = [
            (
                seconds(lambda: pam.score([region], candidates), pam.device),  # noqa: B023
                seconds(lambda: one_at_a_time(pam, region, candidates), pam.device),  # noqa: B023
            )
            for _ in range(options.repeats)
        ]
        packed, plain = (median(column) for column in zip(*pairs, strict=True))
        ratio = median(slow / fast for fast, slow in pairs)
        row = (str(len(candidates)), str(tokens), f"{packed:.3f}", f"{plain:.3f}", f"{ratio:.1f}", f"{difference:.1e}")
        table.add_row(*row)
    where = f"{torch.get_num_threads()} threads" if pam.device.type == "cpu" else torch.cuda.get_device_name(pam.device)
    Console().print(table, f"{pam.name}, {pam.device}, {where}; medians of {options.repeats}")


if __name__ == "__main__":
    main()
