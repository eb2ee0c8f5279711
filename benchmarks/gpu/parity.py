"""The reference's goldens on this device, in float32 and as the product runs: how far masks and words are away."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks import plain
from benchmarks.gpu.rows import Row
from model import PerceiveAnything, Sampling
from model.compute.device import pick_dtype
from tests.parity.goldens import FOLDER, Case, cases, distance, overridden
from tests.parity.weights import write_checkpoint

STEPS = 32
_FEATURES, _LOGITS = 1e-4, 1e-3


@dataclass(frozen=True)
class Away:
    """How far one case is from its golden.

    Attributes:
        features: of SAM 2's mask tokens, largest difference over the largest value.
        logits: of the first token, likewise.
        iou: of the masks, 0..1; 1 where both are empty.
        tokens: share of the greedy tokens up to the first other one, 0..1.
    """

    features: float
    logits: float
    iou: float
    tokens: float


def measure(device: torch.device) -> Iterator[Row]:
    """The worst and the mean of all pictures of the goldens."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder)
        write_checkpoint(FOLDER, target)
        (weights,), (config,) = target.glob("*.pt"), target.glob("*.yaml")
        usual = str(pick_dtype("auto", device)).removeprefix("torch.")
        ways = [(kind, kind, False) for kind in dict.fromkeys(("float32", usual, "bfloat16"))]
        if device.type == "cuda":
            ways.append((f"{usual}, compiled", usual, True))
        for name, kind, resident in ways:
            pam = PerceiveAnything.from_pretrained(
                target / "pam", weights, config, device=device, dtype=kind, resident=resident
            )
            away = [_away(pam, case) for case in cases() if case.is_image]
            exact = kind == "float32"
            yield from (
                Row(
                    "parity",
                    f"{name}: mask tokens, largest relative difference",
                    max(a.features for a in away),
                    "",
                    f"≤ {_FEATURES:g}" if exact else "",
                ),
                Row(
                    "parity",
                    f"{name}: first logits, largest relative difference",
                    max(a.logits for a in away),
                    "",
                    f"≤ {_LOGITS:g}" if exact else "",
                ),
                Row("parity", f"{name}: masks, least IoU", min(a.iou for a in away), "", "1" if exact else ""),
                Row(
                    "parity",
                    f"{name}: greedy tokens up to the first other one, mean share",
                    float(np.mean([a.tokens for a in away])),
                    "",
                    "1" if exact else "",
                    note=f"{len(away)} pictures × {STEPS} tokens, random weights: words stand nearer to each other "
                    "than a trained model's",
                ),
            )


@torch.no_grad()
def _away(pam: PerceiveAnything, case: Case) -> Away:
    with overridden(pam, case.facts.get("sam2_override")):
        embedding = pam.encode(case.image)
        (region,) = pam.segment(embedding, [case.prompt])
    height, width = case.arrays["mask_shape"]
    golden = np.unpackbits(case.arrays["mask_bits"])[: height * width].reshape(height, width).astype(bool)
    union = (region.mask | golden).sum()
    prompt = plain.embed(pam.language, plain.blocks(pam, [region])[0], case.instruction)
    logits = pam.language.model(inputs_embeds=prompt[None]).logits[0, -1]
    (texts,) = pam.describe(
        [region], [case.instruction], sampling=Sampling(max_new_tokens=STEPS, repetition_penalty=1.0)
    )
    (text,) = texts.values()
    return Away(
        distance(region.features.mask_tokens, case.arrays["mid_mask_tokens_out"]),
        distance(logits, case.arrays["logits_first"]),
        float((region.mask & golden).sum() / union) if union else 1.0,
        _equal(text.token_ids, case.arrays["greedy_ids"].tolist(), pam.language.end_ids()),
    )


def _equal(ours: tuple[int, ...], golden: list[int], ends: list[int]) -> float:
    """Share of tokens before the first that differs; the goldens go on where ours may end."""
    told = [token for token in ours if token not in ends]
    same = next((at for at, (a, b) in enumerate(zip(told, golden, strict=False)) if a != b), len(told))
    return same / max(1, len(told))
