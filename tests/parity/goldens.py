"""A folder of goldens: its cases, its checkpoint, and how near an array must come."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from model import PerceiveAnything, Prompt

_SCORE_HEAD = "sam_mask_decoder.pred_obj_score_head.layers.2"
FOLDER = Path(os.environ.get("PARITY_DIR") or Path(__file__).parent / "compact")


@dataclass(frozen=True)
class Case:
    """One entry of index.json."""

    name: str
    facts: dict[str, Any]

    @property
    def is_image(self) -> bool:
        return "image" in self.facts

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        with np.load(FOLDER / f"{self.name}.npz") as file:
            return dict(file)

    @property
    def image(self) -> np.ndarray:
        # an array, since the reference ignores EXIF orientation and the façade applies it to PIL pictures
        return np.asarray(Image.open(FOLDER / self.facts["image"]).convert("RGB"))

    @property
    def prompt(self) -> Prompt:
        given = self.facts["visual_prompt"]
        if len(given) == 4 and not isinstance(given[0], list):
            return Prompt(box=tuple(given))
        return Prompt(points=[(x, y, label) for (x, y), label in zip(given, self.facts["labels"], strict=True)])

    @property
    def instruction(self) -> str:
        return str(self.facts["text"]).removeprefix("<image>\n")


def cases() -> list[Case]:
    index = json.loads((FOLDER / "index.json").read_text(encoding="utf-8"))
    return [Case(name, facts) for name, facts in index["cases"].items()]


@contextmanager
def overridden(pam: PerceiveAnything, changes: dict[str, Any] | None) -> Iterator[None]:
    """Apply a case's `sam2_override` ("parameter": "*= 2.0" or "= -6.0") and take it back afterwards."""
    state = pam.tower.sam.state_dict()
    changed = {name: rule for name, rule in (changes or {}).items() if name in state}
    if changes and not changed:
        # only the numbers are given: they are the object-score head's
        changed = {f"{_SCORE_HEAD}.weight": f"*= {changes['scale']}", f"{_SCORE_HEAD}.bias": f"= {changes['bias']}"}
    before = {name: state[name].clone() for name in changed}
    for name, rule in changed.items():
        operator, number = str(rule).split()
        if operator == "*=":
            state[name].mul_(float(number))
        elif operator == "=":
            state[name].fill_(float(number))
        else:
            raise AssertionError(f"{name}: {rule}")
    try:
        yield
    finally:
        for name, value in before.items():
            state[name].copy_(value)


def stability(logits: torch.Tensor) -> torch.Tensor:
    """SAM 2's stability score of mask logits (B, H, W): the share of the pixels above -0.05 that are above 0.05."""
    return (logits > 0.05).flatten(1).sum(1) / (logits > -0.05).flatten(1).sum(1).clamp(min=1)


def distance(ours: Any, golden: np.ndarray) -> float:
    """max |ours − golden| / max |golden|."""
    mine = ours.detach().float().cpu().numpy() if isinstance(ours, torch.Tensor) else np.asarray(ours)
    target = np.asarray(golden, dtype=np.float64)
    assert mine.shape == target.shape, (mine.shape, target.shape)
    return float(np.abs(mine.astype(np.float64) - target).max() / max(np.abs(target).max(), 1e-12))


def stats_distance(ours: np.ndarray, golden: np.ndarray) -> float:
    """The larger distance of (mean, std, min, max) and of sum |x|, which is of another order of magnitude."""
    return max(distance(ours[:4], golden[:4]), distance(ours[4:], golden[4:]))


def stats(values: torch.Tensor) -> np.ndarray:
    """mean, std, min, max, sum |x|, as stored in the `*_stats` arrays."""
    array = values.detach().cpu().double().numpy()
    return np.array([array.mean(), array.std(), array.min(), array.max(), np.abs(array).sum()])
