"""First stage: SAM 2 learns to cut out what a prompt points at.

Small heads for class, colour and place hang on the decoder's tokens and on the features meanwhile, and are thrown away
afterwards: the second stage reads SAM 2 frozen, so what its features do not tell can never be said.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from model.errors import CheckpointError
from model.sam.boxes import rough_masks
from tiny import clicks
from tiny.batch import NAMES, Batch, batch_of
from tiny.heads import Heads
from tiny.looks import box_of
from tiny.pool import Pool

_PLANS = {"click": 0.3, "box": 0.22, "clicks": 0.3, "box and click": 0.08, "mask": 0.1}
_PHOTOGRAPH_PLANS = {"click": 0.2, "box": 0.45, "clicks": 0.15, "box and click": 0.1, "mask": 0.1}
"""Which of the parts that lie about a click is meant, nobody can know who has not made the regions: boxes say more."""
_BOXED = ("box", "box and click")
_MISSED = 5.0
"""How often a pixel counts that is missed within a box on a photograph. Of a doubtful thing most pixels are likelier
ground than thing: where all count alike the mask is too small, with less IoU than the filled box (docs/training.md)."""


@dataclass(frozen=True)
class Decoded:
    """Decoder outputs for R regions: logits (R, 4, S/4, S/4), ious (R, 4), tokens (R, 4, 256), score (R, 1) and the
    image side of its transformer (R, 256, S/16, S/16)."""

    logits: Tensor
    ious: Tensor
    tokens: Tensor
    score: Tensor
    image: Tensor


class Learner:
    """SAM 2, its throw-away heads, the optimisers and the running average that is kept at the end."""

    def __init__(self, sam: SAM2Base, rate: float, decay: float = 0.998, trunk_rate: float | None = None) -> None:
        self.sam, self.heads = sam, Heads().to(next(sam.parameters()).device)
        self.average = copy.deepcopy(sam)
        self.average_heads = copy.deepcopy(self.heads)
        self.decay, self.step, self.rate = decay, 0, rate
        # Muon learns a small transformer from fewer pictures, but its matrix iterations are dear for the wide decoder
        self.optimizers = optimizers(sam.image_encoder.trunk, [sam, self.heads], rate, trunk_rate)

    def update(self, loss: Tensor, share: float) -> None:
        """One optimiser step; `share` 0…1 is how much of the planned time has gone."""
        descend(self.optimizers, loss, schedule(self.step, share))
        self.step += 1
        keep = min(self.decay, (1 + self.step) / (20 + self.step))
        with torch.no_grad():
            for old, new in ((self.average, self.sam), (self.average_heads, self.heads)):
                for slow, fast in zip(old.parameters(), new.parameters(), strict=True):
                    slow.lerp_(fast, 1 - keep)

    def save(self, file: Path, minutes: float) -> None:
        """Write everything that resuming needs."""
        state = {
            "sam": self.sam.state_dict(),
            "heads": self.heads.state_dict(),
            "average": self.average.state_dict(),
            "average_heads": self.average_heads.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
            "step": self.step,
            "minutes": minutes,
        }
        torch.save(state, file.with_suffix(".part"))
        file.with_suffix(".part").replace(file)

    def load(self, file: Path) -> float:
        """Go on where `save` was; returns the minutes."""
        state = torch.load(file, weights_only=True, map_location=next(self.sam.parameters()).device)
        self._take(state, state["sam"], state["heads"])
        self.step = state["step"]
        return float(state["minutes"])

    def inherit(self, file: Path) -> None:
        """Begin anew with what another run had at its end: averages, heads and the optimisers' state, not its steps.

        Raises CheckpointError where it is not there or of another model.
        """
        if not file.is_file():
            raise CheckpointError(f"{file} is missing: a run folder whose SAM 2 stage was trained has it")
        state = torch.load(file, weights_only=True, map_location=next(self.sam.parameters()).device)
        try:
            self._take(state, state["average"], state["average_heads"])
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(f"{file} is of a model with another sam2.yaml: {error}") from None

    def _take(self, state: dict[str, Any], sam: dict[str, Tensor], heads: dict[str, Tensor]) -> None:
        self.sam.load_state_dict(sam)
        self.heads.load_state_dict(heads)
        self.average.load_state_dict(state["average"])
        self.average_heads.load_state_dict(state["average_heads"])
        for optimizer, values in zip(self.optimizers, state["optimizers"], strict=True):
            peaks = [group["peak"] for group in optimizer.param_groups]
            optimizer.load_state_dict(values)
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["peak"] = peak  # this recipe's, not that of the state


def optimizers(
    trunk: nn.Module, modules: Sequence[nn.Module], rate: float, trunk_rate: float | None = None
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of `trunk`, AdamW for every other parameter of `modules`; each knows its peak as `peak`.

    A `trunk_rate` is for a trunk that has been trained elsewhere: AdamW for all of it, at that peak.
    """
    mine = list(trunk.parameters())
    apart = mine if trunk_rate is not None else [p for p in mine if p.ndim == 2]
    taken = set(map(id, apart))
    rest = [p for module in modules for p in module.parameters() if id(p) not in taken]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": 0.05, "peak": rate},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0, "peak": rate},
    ]
    if trunk_rate is not None:
        groups.append({"params": apart, "weight_decay": 0.0, "peak": trunk_rate})
        return [torch.optim.AdamW(groups, betas=(0.9, 0.98))]
    muon = torch.optim.Muon([{"params": apart, "peak": 4 * rate}], weight_decay=0.02, adjust_lr_fn="match_rms_adamw")
    return [torch.optim.AdamW(groups, betas=(0.9, 0.98)), muon]


def descend(chosen: Sequence[torch.optim.Optimizer], loss: Tensor, factor: float) -> None:
    """One clipped step of all optimisers at `factor` of their peak rates."""
    parameters = [p for optimizer in chosen for group in optimizer.param_groups for p in group["params"]]
    for optimizer in chosen:
        optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, 1.0)
    for optimizer in chosen:
        for group in optimizer.param_groups:
            group["lr"] = factor * group["peak"]
        optimizer.step()


def schedule(step: int, share: float, warm: int = 100) -> float:
    """The learning rate's factor: up over `warm` steps, then down a cosine; `share` 0…1 of the plan has gone."""
    return float(min(1.0, (step + 1) / warm) * max(0.02, 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))))


def at_size(sam: SAM2Base, side: int) -> None:
    """Let SAM 2 take side × side pictures (a multiple of 64); its weights do not depend on the size."""
    sam.image_size = side
    cells = side // sam.backbone_stride
    sam.sam_image_embedding_size = cells
    sam.sam_prompt_encoder.image_embedding_size = (cells, cells)
    sam.sam_prompt_encoder.input_image_size = (side, side)
    sam.sam_prompt_encoder.mask_input_size = (4 * cells, 4 * cells)


@contextmanager
def arithmetic(device: torch.device, precision: str) -> Iterator[None]:
    """Products in `precision` (float32 or bfloat16, under autocast); the weights stay float32."""
    if precision == "float32":
        yield
        return
    with ExitStack() as stack:
        stack.enter_context(torch.autocast(device.type, getattr(torch, precision)))
        if device.type == "cpu":
            # the fused attention's backward pass is slow in bfloat16 on CPUs: five times this one's time
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield


@contextmanager
def watching() -> Iterator[None]:
    """No gradients, and so the fused attention in any precision."""
    with torch.no_grad(), sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
        yield


def encode(sam: SAM2Base, pictures: Tensor) -> list[Tensor]:
    """Feature levels, finest first; the last has SAM 2's `no_mem_embed` added, as the image path does."""
    levels = list(sam.forward_image(pictures)["backbone_fpn"])
    levels[-1] = levels[-1] + sam.no_mem_embed.view(1, -1, 1, 1)
    return levels


def decode(sam: SAM2Base, levels: list[Tensor], coords: Tensor, labels: Tensor, dense: Tensor | None = None) -> Decoded:
    """Decode prompts coords (R, N, 2) in input pixels with labels (R, N) on levels that have R rows."""
    caught: list[Tensor] = []
    hook = sam.sam_mask_decoder.transformer.register_forward_hook(lambda _m, _i, out: caught.append(out[1]))
    try:
        sparse, ground = sam.sam_prompt_encoder(points=(coords, labels), boxes=None, masks=dense)
        logits, ious, tokens, score = sam.sam_mask_decoder.predict_masks(
            image_embeddings=levels[-1],
            image_pe=sam.sam_prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=ground,
            repeat_image=False,
            high_res_features=levels[:-1],
        )
    finally:
        hook.remove()
    side = levels[-1].shape[-1]
    image = caught[0].transpose(1, 2).reshape(len(coords), -1, side, side)
    # losses want float32, also under autocast
    return Decoded(logits.float(), ious.float(), tokens.float(), score.float(), image.float())


def prompt(
    rng: Generator, sam: SAM2Base, levels: list[Tensor], masks: np.ndarray, plan: str
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Coordinates, labels and dense prompt for every mask under one of the plans."""
    dense = None
    device = levels[-1].device
    if plan in ("box", "box and click", "mask"):
        given = [clicks.rough(rng, m) for m in masks] if plan == "mask" else list(masks)
        boxes = [box_of(m) if plan == "mask" else clicks.box(rng, m) for m in given]
        points = [[(b[0], b[1], 2), (b[2], b[3], 3)] for b in boxes]
        if plan == "box and click":
            points = [[*p, clicks.inside(rng, m)] for p, m in zip(points, masks, strict=True)]
        if plan == "mask":
            dense = (functional.avg_pool2d(torch.from_numpy(np.stack(given))[:, None].float(), 4) * 20 - 10).to(device)
        else:  # as the tower gives boxes
            dense = rough_masks(sam, _tensors(points, device)[0][:, :2])
    else:
        points = [[clicks.inside(rng, m)] for m in masks]
        for _ in range(int(rng.integers(1, 4)) if plan == "clicks" else 0):
            with watching():
                logits = decode(sam, levels, *_tensors(points, device)).logits[:, :1]
            guesses = (functional.interpolate(logits, masks.shape[-2:], mode="bilinear") > 0)[:, 0].cpu().numpy()
            points = [[*p, clicks.correction(m, g)] for p, m, g in zip(points, masks, guesses, strict=True)]
    return *_tensors(points, device), dense


def _tensors(points: list[list[clicks.Point]], device: torch.device) -> tuple[Tensor, Tensor]:
    table = torch.tensor(points, dtype=torch.float32, device=device)
    return table[..., :2].contiguous(), table[..., 2].int()


def losses(learner: Learner, batch: Batch, rng: Generator) -> dict[str, Tensor]:
    """All losses of one batch, by name."""
    sam, heads = learner.sam, learner.heads
    levels = encode(sam, batch.pictures)
    regions = len(batch.masks) // len(batch.pictures)
    wide = [level.repeat_interleave(regions, 0) for level in levels]
    # the crops' classifier on each thing's own cells: what was learned there is carried over to whole scenes
    cells = functional.avg_pool2d(batch.targets, 4)
    plain = (levels[-1].float() - sam.no_mem_embed.view(1, -1, 1, 1)).repeat_interleave(regions, 0)
    own = heads.crop_norm((plain * cells).sum((2, 3)) / cells.sum((2, 3)).clamp(min=1e-3))
    groups = np.array_split(rng.permutation(len(batch.masks)), 2)
    plans = _PHOTOGRAPH_PLANS if batch.of_photographs else _PLANS
    kind = _taught(batch)
    total: dict[str, Tensor] = {"thing": classes(heads.crop_kind(own), kind)}
    if not batch.of_photographs:
        total["cells"] = functional.cross_entropy(
            heads.cells(levels[-1]), batch.cells, _cell_weights(batch.cells.device), ignore_index=-1
        )
        total["thing top-1"] = (heads.crop_kind(own).argmax(-1) == kind).float().mean().detach()
    for rows, plan in zip(groups, rng.choice(list(plans), 2, replace=False, p=list(plans.values())), strict=True):
        part = [level[rows] for level in wide]
        with torch.no_grad():
            still = [level.detach() for level in part]
        out = decode(sam, part, *prompt(rng, sam, still, batch.masks[rows], str(plan)))
        chosen = torch.from_numpy(rows).to(batch.kind.device)
        missed = _MISSED if plan in _BOXED and batch.of_photographs else 1.0
        for name, value in _region_losses(heads, out, batch, kind[chosen], chosen, missed).items():
            total[name] = total.get(name, 0.0) + 0.5 * value
    return total


def _cell_weights(device: torch.device) -> Tensor:
    """Ground and unknown things are everywhere and count less."""
    weights = torch.ones(len(NAMES) + 1, device=device)
    weights[0], weights[1] = 0.1, 0.3
    return weights


def _taught(batch: Batch) -> Tensor:
    """The classes (R,) that the heads learn: what has no name in a photograph may be of any, and is left out (−100)."""
    return batch.kind.masked_fill(batch.kind == 0, -100) if batch.of_photographs else batch.kind


def classes(logits: Tensor, kind: Tensor) -> Tensor:
    """Mean cross-entropy of the rows that have a class, 0 of none."""
    known = (kind >= 0).sum().clamp(min=1)
    return functional.cross_entropy(logits, kind, label_smoothing=0.05, reduction="sum") / known


def _region_losses(
    heads: Heads, out: Decoded, batch: Batch, kind: Tensor, rows: Tensor, missed: float
) -> dict[str, Tensor]:
    """The losses of the batch's regions `rows`, of the classes `kind`; a pixel that is missed counts `missed` times."""
    target = batch.targets[rows]
    logit = out.logits[:, :1]
    chance = logit.sigmoid()
    over = (1, 2, 3)
    dice = 1 - (2 * (chance * target).sum(over) + 1) / (chance.sum(over) + target.sum(over) + 1)
    weight = torch.tensor(missed, device=logit.device)
    bce = functional.binary_cross_entropy_with_logits(logit, target, pos_weight=weight, reduction="none").mean(over)
    hard, truth = logit > 0, target > 0.5
    actual = (hard & truth).sum(over) / (hard | truth).sum(over).clamp(min=1)
    tokens = heads.norm(out.tokens)
    share = functional.avg_pool2d(target, 4)
    pooled = (out.image * share).sum((2, 3)) / share.sum((2, 3)).clamp(min=1e-3)
    return {
        "dice": dice.mean(),
        "bce": bce.mean(),
        "iou": functional.mse_loss(out.ious[:, 0], actual.detach()),
        "score": functional.binary_cross_entropy_with_logits(out.score, torch.ones_like(out.score)),
        "kind": classes(heads.kind(tokens).flatten(0, 1), kind.repeat_interleave(4)),
        "pooled": classes(heads.pooled(pooled), kind),
        "colour": functional.cross_entropy(heads.colour(tokens[:, 0]), batch.colour[rows]),
        "place": functional.cross_entropy(heads.place(tokens[:, 0]), batch.place[rows]),
        "mean IoU": actual.mean().detach(),
        "top-1": ((heads.kind(tokens[:, 0]).argmax(-1) == kind).sum() / (kind >= 0).sum().clamp(min=1)).detach(),
        "colour right": (heads.colour(tokens[:, 0]).argmax(-1) == batch.colour[rows]).float().mean().detach(),
    }


WEIGHTS = {
    "dice": 1.0,
    "bce": 4.0,
    "iou": 0.5,
    "score": 0.02,
    "kind": 0.5,
    "pooled": 0.5,
    "colour": 0.25,
    "place": 0.1,
    "cells": 0.5,
    "thing": 0.5,
    "crop": 0.5,
}
"""How much each loss counts."""


def total(parts: dict[str, Tensor]) -> Tensor:
    """The weighted sum of the losses."""
    return torch.stack([weight * parts[name] for name, weight in WEIGHTS.items() if name in parts]).sum()


@torch.no_grad()
def probe_photographs(learner: Learner, batches: Sequence[Batch]) -> dict[str, float]:
    """IoU of the running average for a click and a tight box on regions of photographs, and of the box filled."""
    sam = learner.average.eval()
    at_size(sam, batches[0].pictures.shape[-1])
    found: dict[str, list[float]] = {"click": [], "box": [], "filled": []}
    for batch in batches:
        each = len(batch.masks) // len(batch.pictures)
        wide = [level.repeat_interleave(each, 0) for level in encode(sam, batch.pictures.to(sam.no_mem_embed.device))]
        ends = [box_of(mask) for mask in batch.masks]
        asked: dict[str, list[list[clicks.Point]]] = {
            "click": [[clicks.middle(mask)] for mask in batch.masks],
            "box": [[(b[0], b[1], 2), (b[2], b[3], 3)] for b in ends],
        }
        for name, points in asked.items():
            coords, labels = _tensors(points, sam.no_mem_embed.device)
            dense = rough_masks(sam, coords) if name == "box" else None
            logits = decode(sam, wide, coords, labels, dense).logits[:, :1]
            guesses = (functional.interpolate(logits, batch.masks.shape[-2:], mode="bilinear") > 0)[:, 0].cpu().numpy()
            found[name] += [clicks.iou(m, g) for m, g in zip(batch.masks, guesses, strict=True)]
        found["filled"] += [
            float(m.sum()) / ((b[2] - b[0]) * (b[3] - b[1])) for m, b in zip(batch.masks, ends, strict=True)
        ]
    return {f"photo {name}": float(np.mean(values)) for name, values in found.items()}


@torch.no_grad()
def probe(learner: Learner, pool: Pool, pictures: int, side: int) -> dict[str, float]:
    """IoU for a click and a box, and class top-1, of the running average on the first scenes of a pool."""
    sam, heads = learner.average.eval(), learner.average_heads.eval()
    at_size(sam, side)
    rng = np.random.default_rng(0)
    sums = {"click": 0.0, "box": 0.0, "top-1": 0.0, "top-1 pooled": 0.0, "colour": 0.0, "place": 0.0}
    count = 0
    for _ in range(pictures // 16):
        batch = batch_of(rng, pool, 16, 2, side).to(sam.no_mem_embed.device)
        wide = [level.repeat_interleave(2, 0) for level in encode(sam, batch.pictures)]
        for plan in ("click", "box"):
            out = decode(sam, wide, *prompt(rng, sam, wide, batch.masks, plan))
            guess = (functional.interpolate(out.logits[:, :1], (side, side), mode="bilinear") > 0)[:, 0].cpu().numpy()
            sums[plan] += sum(clicks.iou(m, g) for m, g in zip(batch.masks, guess, strict=True))
        tokens = heads.norm(out.tokens[:, 0])
        share = functional.avg_pool2d(batch.targets, 4)
        pooled = (out.image * share).sum((2, 3)) / share.sum((2, 3)).clamp(min=1e-3)
        sums["top-1"] += float((heads.kind(tokens).argmax(-1) == batch.kind).sum())
        sums["top-1 pooled"] += float((heads.pooled(pooled).argmax(-1) == batch.kind).sum())
        sums["colour"] += float((heads.colour(tokens).argmax(-1) == batch.colour).sum())
        sums["place"] += float((heads.place(tokens).argmax(-1) == batch.place).sum())
        count += len(batch.masks)
    return {name: value / count for name, value in sums.items()}
