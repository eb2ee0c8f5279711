"""Masks: the head of SAM 2's mask decoder learns where people put the borders.

What comes before it stays as it is, and so do the features that words are read from; they are computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from model.adapter import HEAD, MASKS
from model.pam import PerceiveAnything
from model.tuning.learner import Learner
from model.tuning.lessons import Example
from model.tuning.shelf import Shelf
from model.values.mask import from_rle

_BATCH = 8
_RATE = 3e-4
_REPEAT_EVERY = 4
_ROUNDS = 30
"""No region is looked at more often."""


def learn(
    pam: PerceiveAnything,
    examples: Sequence[Example],
    rehearsed: Sequence[Example],
    shelf: Shelf,
    seconds: float,
    file: Path,
    pause: Callable[[], None],
    say: Callable[[float], None],
) -> dict[str, torch.Tensor]:
    """Learn from examples that have masks; the new weights by their names in an `Adapter`. The model stays the base.

    A quarter of each batch are regions whose masks are to stay those of the base (`rehearsed`).
    """
    decoder = pam.tower.sam.sam_mask_decoder
    parameters = {name: weight for name, weight in decoder.named_parameters() if name.startswith(HEAD)}
    before = {name: weight.detach().clone() for name, weight in parameters.items()}
    chances = np.array([example.weight for example in examples])
    chances /= chances.sum()
    side = pam.tower.image_size // 4
    targets = _Targets(examples, side)
    again = [(example, kind) for example in rehearsed for kind in range(len(example.prompts()))]
    with torch.no_grad():
        kept = [_logits(decoder, shelf, example, kind).sigmoid().cpu() for example, kind in again]

    def loss(step: int) -> torch.Tensor:
        rng = np.random.default_rng([step, 1])
        repeated = rng.integers(len(again), size=_BATCH // _REPEAT_EVERY) if again else ()
        rows = rng.choice(len(examples), _BATCH - len(repeated), p=chances)
        asked = [*((examples[i], int(rng.integers(2))) for i in rows), *(again[i] for i in repeated)]
        wanted = torch.stack([*(targets.of(int(i)) for i in rows), *(kept[i] for i in repeated)])
        logits = torch.stack([_logits(decoder, shelf, example, kind) for example, kind in asked])
        return border_loss(logits, wanted.to(logits.device))

    try:
        for weight in parameters.values():
            weight.requires_grad_(True)
        learner = Learner(parameters, _RATE, seconds, -(-_ROUNDS * len(examples) // _BATCH), file)
        with torch.enable_grad():
            learner.run(loss, pause, say)
        return {MASKS + name: weight.detach().cpu().clone() for name, weight in parameters.items()}
    finally:
        with torch.no_grad():
            for name, weight in parameters.items():
                weight.requires_grad_(False).copy_(before[name])


def border_loss(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Cross-entropy and Dice of mask logits (B, 4n, 4n) with the share of each place that is in the mask, 0…1."""
    cross = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean((1, 2))
    # a small thing's border counts as much as a large one's
    cross = cross / wanted.mean((1, 2)).clamp(min=0.01).sqrt()
    guess = logits.sigmoid()
    dice = 1 - (2 * (guess * wanted).sum((1, 2)) + 1) / (guess.sum((1, 2)) + wanted.sum((1, 2)) + 1)
    return (cross + dice).mean()


def _logits(decoder: nn.Module, shelf: Shelf, example: Example, prompt: int) -> torch.Tensor:
    """Low-res logits (4n, 4n) of mask token 0, as SAM 2's own decoder computes them."""
    image, tokens = shelf.seen(example, prompt)
    finest, finer = shelf.embedding(example.picture).high_resolution
    first, norm, bend, second, last = decoder.get_submodule("output_upscaling").children()
    raised = bend(norm(first(image[None]) + finer))
    raised = last(second(raised) + finest)[0]
    weights = decoder.get_submodule("output_hypernetworks_mlps.0")(tokens[1:])[0]
    return torch.einsum("c,chw->hw", weights, raised)


class _Targets:
    """Masks at the size of the logits, made once: shares of each place, as bytes."""

    def __init__(self, examples: Sequence[Example], side: int) -> None:
        self._examples = examples
        self._side = side
        self._made: dict[int, torch.Tensor] = {}

    def of(self, number: int) -> torch.Tensor:
        if number not in self._made:
            mask = torch.from_numpy(from_rle(self._examples[number].mask or {}))[None, None].float()
            share = functional.interpolate(mask, (self._side, self._side), mode="area")[0, 0]
            self._made[number] = (share * 255).round().to(torch.uint8)
        return self._made[number].float() / 255
