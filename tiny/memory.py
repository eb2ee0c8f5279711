"""Third lesson: SAM 2 learns to remember, so that a thing that was pointed at once is found again frame by frame.

Image encoder and mask decoder stay as they are, and with them everything that is said of pictures. Memory attention
begins as the identity in the decoder's terms (`begin`), and learns from clips of a few frames what to add.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from sam2.modeling.sam2_base import NO_OBJ_SCORE, SAM2Base
from torch import Tensor, nn
from torch.nn import functional

from model.sam.boxes import rough_masks
from model.sam.tower import Decoded, Tower
from model.values.embedding import Embedding
from model.video.memory import Remembered, pointer, remembered, with_memories
from tiny import segmentation
from tiny.batch import MEAN, STD
from tiny.clips import SEEN, Act, Director
from tiny.pool import truth_from
from tiny.texts import Truth

_PARTS = (
    "memory_attention",
    "memory_encoder",
    "obj_ptr_proj",
    "obj_ptr_tpos_proj",
    "maskmem_tpos_enc",
    "no_obj_ptr",
    "no_obj_embed_spatial",
    "sam_mask_decoder.pred_obj_score_head",
)
"""What is learned: everything of SAM 2 that pictures do not need, and the score that says whether a thing is there."""

_PLANS = {"box": 0.6, "click": 0.3, "clicks": 0.1}
_LENGTH = 24  # frames of a stored clip
_CALM = 0.4  # share of the pieces left out in which the thing is always seen: to know that it is gone is learned last


_Past = tuple[Remembered, Remembered]
"""What is remembered of the prompted frames, and of the others."""


@dataclass(frozen=True)
class Films:
    """Clips at the model's size: frames (N, F, S, S, 3) uint8, owners (N, F, S, S) uint8 (0 ground, n for thing n−1),
    how many things each has, what is true of the first and what it does."""

    frames: NDArray[np.uint8]
    owners: NDArray[np.uint8]
    things: tuple[int, ...]
    truths: tuple[Truth, ...]
    acts: tuple[tuple[Act, ...], ...]

    def __len__(self) -> int:
        return len(self.things)


def draw(director: Director, folder: Path, count: int, side: int) -> Films:
    """Draw `count` clips at side × side pixels, unless the folder has them already; mapped, not read."""
    done = folder / "clips.json"
    if not done.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        shape = (count, _LENGTH, side, side)
        frames = np.lib.format.open_memmap(folder / "frames.npy", "w+", np.uint8, (*shape, 3))
        owners = np.lib.format.open_memmap(folder / "owners.npy", "w+", np.uint8, shape)
        rows = []
        for number in range(count):
            clip = director.clip(number, _LENGTH)
            subject = clip.actors[0]
            acts = [vars(act) for act in subject.acts]
            rows.append({"things": len(clip.actors), "truth": asdict(subject.truth), "acts": acts})
            for time, picture in enumerate(clip.frames):
                frames[number, time] = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
                owner = np.zeros(picture.shape[:2], np.uint8)
                for index, actor in enumerate(clip.actors):
                    owner[actor.masks[time]] = index + 1
                owners[number, time] = cv2.resize(owner, (side, side), interpolation=cv2.INTER_NEAREST)
        frames.flush()
        owners.flush()
        done.write_text(json.dumps(rows), encoding="utf-8")
    rows = json.loads(done.read_text(encoding="utf-8"))
    return Films(
        np.load(folder / "frames.npy", mmap_mode="r"),
        np.load(folder / "owners.npy", mmap_mode="r"),
        tuple(row["things"] for row in rows),
        tuple(truth_from(row["truth"]) for row in rows),
        tuple(tuple(Act(**act) for act in row["acts"]) for row in rows),
    )


@dataclass(frozen=True)
class Scraps:
    """B pieces of clips, one thing of each: pictures (F, B, 3, S, S) normalised, masks (F, B, S, S) bool, the thing
    visible on the first frame."""

    pictures: Tensor
    masks: NDArray[np.bool_]

    def to(self, device: torch.device) -> Scraps:
        """The same on a device."""
        return Scraps(self.pictures.to(device), self.masks)


def scraps(rng: Generator, films: Films, count: int, frames: int) -> Scraps:
    """Random pieces: forwards or backwards, each frame or some, mirrored or not."""
    pictures: list[NDArray[np.uint8]] = []
    masks: list[NDArray[np.bool_]] = []
    while len(masks) < count:
        number = int(rng.integers(len(films)))
        step = int(rng.integers(1, 4))
        reach = step * (frames - 1)
        begin = int(rng.integers(_LENGTH - reach))
        times = np.arange(begin, begin + reach + 1, step)[:: int(rng.choice([-1, 1]))]
        thing = int(rng.integers(films.things[number])) if rng.random() < 0.5 else 0
        mask = films.owners[number, times] == thing + 1
        seen = mask.sum((1, 2))
        if seen[0] < 3 * SEEN or (seen.min() >= SEEN and rng.random() < _CALM):
            continue
        part = films.frames[number, times]
        if rng.random() < 0.5:
            part, mask = part[:, :, ::-1], mask[:, :, ::-1]
        pictures.append(np.ascontiguousarray(part))
        masks.append(np.ascontiguousarray(mask))
    images = torch.from_numpy(np.stack(pictures, 1)).permute(0, 1, 4, 2, 3).float() / 255
    return Scraps((images - MEAN[:, None, None]) / STD[:, None, None], np.stack(masks, 1))


def parameters(sam: SAM2Base) -> list[nn.Parameter]:
    """What this lesson changes; everything else is frozen."""
    for parameter in sam.parameters():
        parameter.requires_grad_(False)
    chosen = [p for name, p in sam.named_parameters() if name.startswith(_PARTS)]
    for parameter in chosen:
        parameter.requires_grad_(True)
    return chosen


def learned(sam: SAM2Base) -> dict[str, Tensor]:
    """The weights that this lesson has changed."""
    return {name: value for name, value in sam.state_dict().items() if name.startswith(_PARTS)}


@torch.no_grad()
def begin(sam: SAM2Base, pictures: Tensor) -> float:
    """Let memory attention pass features on as the decoder knows them; returns the share of their variance kept, 0…1.

    Its branches end in zeros, and its last norm is fitted to what pictures (B, 3, S, S) have without a memory.
    """
    for layer in sam.memory_attention.layers:
        for last in (layer.self_attn.out_proj, layer.cross_attn_image.out_proj, layer.linear2):
            last.weight.zero_()
            last.bias.zero_()
    features = sam.forward_image(pictures)["backbone_fpn"][-1]
    position = sam.image_encoder.neck.position_encoding(features)
    flat = features.flatten(2).transpose(1, 2).flatten(0, 1)
    wanted = flat + sam.no_mem_embed.view(1, -1)
    given = flat + 0.1 * position.flatten(2).transpose(1, 2).flatten(0, 1)
    given = functional.layer_norm(given, given.shape[-1:])
    middle, aim = given.mean(0), wanted.mean(0)
    slope = ((given - middle) * (wanted - aim)).mean(0) / (given - middle).square().mean(0).clamp(min=1e-6)
    norm = sam.memory_attention.norm
    norm.weight.copy_(slope)
    norm.bias.copy_(aim - slope * middle)
    rest = wanted - (given * norm.weight + norm.bias)
    return float(1 - rest.square().sum() / (wanted - aim).square().sum())


def losses(sam: SAM2Base, batch: Scraps, rng: Generator) -> dict[str, Tensor]:
    """Track each thing from a prompt on the first frame; mask and score losses by name, those of the first frame's mask
    as `first …`: clips show things at the edge, coming in or half hidden, as scenes do not."""
    frames, rows = batch.pictures.shape[:2]
    with segmentation.watching():
        levels = sam.forward_image(batch.pictures.flatten(0, 1))["backbone_fpn"]
    each = [[level[t * rows : (t + 1) * rows] for level in levels] for t in range(frames)]
    targets = functional.avg_pool2d(torch.from_numpy(batch.masks).float(), 4).to(batch.pictures.device)
    plan = str(rng.choice(list(_PLANS), p=list(_PLANS.values())))
    sums: dict[str, list[Tensor]] = defaultdict(list)
    past: _Past = ({}, {})
    for time in range(frames):
        top = each[time][-1]
        if time == 0:
            ready = [*each[0][:-1], top + sam.no_mem_embed.view(1, -1, 1, 1)]
            out = segmentation.decode(sam, ready, *segmentation.prompt(rng, sam, ready, batch.masks[0], plan))
        else:
            out = segmentation.decode(sam, [*each[time][:-1], _remember(sam, top, past, time, frames)], *_nothing(top))
        there = torch.from_numpy(batch.masks[time].sum((1, 2)) >= SEEN).to(top.device)
        sums["score"].append(
            functional.binary_cross_entropy_with_logits(out.score[:, 0], there.float(), reduction="none").mean()
        )
        sums["score right"].append(((out.score[:, 0] > 0) == there).float().mean().detach())
        for name, value in _mask_losses(out.logits[there, 0], targets[time][there]).items():
            sums[name if time else f"first {name}"].append(value)
        past[time > 0][time] = _memory(sam, top, out.logits[:, 0], out.tokens[:, 0], out.score[:, 0], time == 0)
    return {name: torch.stack(values).mean() for name, values in sums.items()}


def _mask_losses(logits: Tensor, target: Tensor) -> dict[str, Tensor]:
    if not len(logits):
        return {}
    chance, over = logits.sigmoid(), (1, 2)
    dice = 1 - (2 * (chance * target).sum(over) + 1) / (chance.sum(over) + target.sum(over) + 1)
    hard, truth = logits > 0, target > 0.5
    found = (hard & truth).sum(over) / (hard | truth).sum(over).clamp(min=1)
    return {
        "dice": dice.mean(),
        "bce": functional.binary_cross_entropy_with_logits(logits, target),
        "J": found.mean().detach(),
    }


def _nothing(top: Tensor) -> tuple[Tensor, Tensor]:
    """The prompt of a frame without one, as SAM 2 writes it."""
    rows = len(top)
    return torch.zeros(rows, 1, 2, device=top.device), -torch.ones(rows, 1, dtype=torch.int32, device=top.device)


def _remember(sam: SAM2Base, top: Tensor, past: _Past, time: int, count: int) -> Tensor:
    return with_memories(sam, top, *past, time, max(count, sam.max_obj_ptrs_in_encoder))


@torch.no_grad()
def follow(tower: Tower, pictures: Tensor, box: tuple[int, int, int, int]) -> list[Decoded]:
    """What the mask decoder tells of a thing on the frames (F, 3, S, S) of a clip, given its box on the first."""
    sam = tower.sam
    levels = sam.forward_image(pictures)["backbone_fpn"]
    side = tower.image_size
    past: _Past = ({}, {})
    found: list[Decoded] = []
    for time in range(len(pictures)):
        finest, finer, top = (level[time : time + 1].float() for level in levels)
        coords, labels = _nothing(top)
        if time:
            seen = _remember(sam, top, past, time, len(pictures)).float()
            out = tower.decode_features(seen, (finest, finer), coords, labels)
        else:
            coords = torch.tensor([[box[:2], box[2:]]], dtype=torch.float32, device=top.device)
            labels = torch.tensor([[2, 3]], dtype=torch.int32, device=top.device)
            dense = rough_masks(sam, coords)
            out = tower.decode(Embedding(side, side, top, (finest, finer)), coords, labels, dense)
        found.append(out)
        past[time > 0][time] = _memory(sam, top, out.mask_logits, out.mask_tokens[:, 1], out.object_scores, time == 0)
    return found


def _memory(
    sam: SAM2Base, top: Tensor, logits: Tensor, token: Tensor, score: Tensor, prompted: bool
) -> dict[str, object]:
    """What SAM 2 keeps of a frame, from the low-res mask logits (B, 4n, 4n), its token (B, 256) and score (B,)."""
    logits = torch.where(score[:, None, None] > 0, logits, torch.full_like(logits, NO_OBJ_SCORE))
    features, position = remembered(sam, top, logits, score, prompted)
    return {"maskmem_features": features, "maskmem_pos_enc": position, "obj_ptr": pointer(sam, token, score)}


WEIGHTS = {"dice": 1.0, "bce": 4.0, "score": 0.4, "first dice": 0.5, "first bce": 2.0}
"""How much each loss counts."""


def total(parts: dict[str, Tensor]) -> Tensor:
    """The weighted sum of the losses."""
    return torch.stack([weight * parts[name] for name, weight in WEIGHTS.items() if name in parts]).sum()


@torch.no_grad()
def probe(sam: SAM2Base, films: Films, count: int) -> dict[str, float]:
    """J and the score's accuracy on the first pieces of some clips."""
    rng = np.random.default_rng(0)
    device = sam.no_mem_embed.device
    found = [losses(sam, scraps(rng, films, 8, 8).to(device), rng) for _ in range(count // 8)]
    return {name: float(np.mean([float(part[name]) for part in found])) for name in ("J", "score right")}
