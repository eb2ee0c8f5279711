"""Second stage: SAM 2 frozen, the Semantic Perceiver, the projectors and Qwen2 learn to say what the region is.

The answers of one region share its prompt: they lie behind it one after the other, each sees the prompt and itself
only, and each counts its positions from the end of the prompt, exactly as if it stood there alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from model.language.qwen import Language
from model.perceiver import Vision
from model.sam.tower import Decoded, Tower
from model.values.embedding import Embedding
from model.values.task import LANGUAGES, instruction
from tiny import segmentation
from tiny.batch import NAMES, Batch
from tiny.texts import Truth, write

_ASKED = {"recognize": 0.2, "brief": 0.35, "detailed": 0.25, "explain": 0.2}
_PLANS = {"click": 0.4, "box": 0.35, "clicks": 0.15, "mask": 0.1}
_IGNORED = -100


@dataclass(frozen=True)
class Packed:
    """Answers of R regions behind their prompts: ids, targets and positions (R, T) int64, group (R, T) (0 prompt, n the
    n-th answer, −1 padding); `slots` says where the image block goes."""

    ids: Tensor
    targets: Tensor
    positions: Tensor
    group: Tensor
    slots: slice

    def to(self, device: torch.device) -> Packed:
        """The same on a device."""
        ids, targets, positions, group = (t.to(device) for t in (self.ids, self.targets, self.positions, self.group))
        return Packed(ids, targets, positions, group, self.slots)


class Speaker(nn.Module):
    """Perceiver, projectors and language model, with a throw-away classifier on the semantic tokens."""

    def __init__(self, config: Qwen2Config, precision: str = "float32") -> None:
        """`precision` of the products, under autocast; the weights are float32 in any case."""
        super().__init__()
        self.precision = precision
        self.vision = Vision(config.hidden_size)
        for name in ("image_newline", "semT_newline", "frame_newline"):
            nn.init.normal_(getattr(self.vision, name), std=0.02)
        self.qwen = Qwen2ForCausalLM(config)
        self.kind = nn.Linear(config.hidden_size, len(NAMES))

    @torch.no_grad()
    def learn_from(self, sam: SAM2Base) -> None:
        """Begin with the mask decoder's transformer: it has the perceiver's shape and knows where the region lies."""
        perceiver, decoder = self.vision.vision_resampler, sam.sam_mask_decoder
        perceiver.load_state_dict(decoder.transformer.state_dict(), strict=False)
        perceiver.pe_layer.load_state_dict(sam.sam_prompt_encoder.pe_layer.state_dict())
        tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        perceiver.sem_tokens.weight.copy_(tokens.mean(0) + tokens.std() * torch.randn_like(perceiver.sem_tokens.weight))

    def forward(self, image: Tensor, mask_tokens: Tensor, packed: Packed) -> tuple[Tensor, Tensor]:
        """Logits (K, V) at the K places that have a target, in reading order, and class logits (R, classes).

        `image` is (R, C, n, n) of regions of pictures or (R, 16, C, n, n) of clips.


        The vocabulary is many times wider than the model, and four places in five belong to prompts: to leave them out
        is an eighth of the whole step.
        """
        with segmentation.arithmetic(image.device, self.precision):
            logits, kind = self._forward(image, mask_tokens, packed)
        return logits.float(), kind.float()

    def _forward(self, image: Tensor, mask_tokens: Tensor, packed: Packed) -> tuple[Tensor, Tensor]:
        if image.ndim == 5:
            block = torch.stack([self.vision.clip(*clip) for clip in zip(image, mask_tokens, strict=True)])
        else:
            block = self.vision(image, mask_tokens)
        vectors = self.qwen.get_input_embeddings()(packed.ids)
        vectors = torch.cat([vectors[:, : packed.slots.start], block, vectors[:, packed.slots.stop :]], dim=1)
        group = packed.group
        same = (group[:, :, None] == group[:, None, :]) | (group[:, None, :] == 0)
        order = torch.arange(group.shape[1], device=group.device)
        seen = same & (order[:, None] >= order[None, :])
        seen |= torch.eye(
            group.shape[1], dtype=torch.bool, device=group.device
        )  # padding sees itself, or softmax would have nothing
        mask = torch.zeros(seen.shape, device=group.device).masked_fill(~seen, torch.finfo(torch.float32).min)[:, None]
        out = self.qwen.model(
            inputs_embeds=vectors, attention_mask=mask, position_ids=packed.positions, use_cache=False
        )
        logits = self.qwen.lm_head(out.last_hidden_state[packed.targets != _IGNORED])
        end = (image.shape[-1] // 2) ** 2 + 18  # of the picture, or of a clip's first frame
        return logits, self.kind(block[:, end - 17 : end - 1].mean(1))


class Packer:
    """Lays out prompts and answers as token ids."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, block: int) -> None:
        """`block` is the number of vectors that stand for the region."""
        self.tokenizer, self.block = tokenizer, block
        self.parts = Language.__new__(Language)  # only its prompt layout is wanted
        self.parts.tokenizer = tokenizer
        self.before = self.parts.prompt_ids("")[0]

    def pack(self, rng: Generator, truths: list[Truth], answers: int) -> Packed:
        """`answers` different tasks and languages for each region."""
        asked = list(product(_ASKED, LANGUAGES))
        chances = np.array([_ASKED[task] for task, _ in asked]) / len(LANGUAGES)
        picks = [rng.choice(len(asked), answers, replace=False, p=chances) for _ in truths]
        return self.lay(
            [
                [(instruction(*asked[i]), write(asked[i][0], truth, asked[i][1])) for i in row]
                for truth, row in zip(truths, picks, strict=True)
            ]
        )

    def lay(self, questions: Sequence[Sequence[tuple[str, str]]]) -> Packed:
        """Instructions and their answers, for each region."""
        rows = []
        for told in questions:
            pad = self.tokenizer.pad_token_id
            ids = [*self.before, *[pad] * self.block]
            targets, positions, group = [_IGNORED] * len(ids), list(range(len(ids))), [0] * len(ids)
            start = len(ids)
            for number, (wanted, answer) in enumerate(told):
                after = self.parts.prompt_ids(wanted)[1]
                text = self.tokenizer(answer, add_special_tokens=False)["input_ids"]
                text = [*text, self.tokenizer.eos_token_id]
                ids += [*after, *text]
                targets += [
                    *[_IGNORED] * (len(after) - 1),
                    *text,
                    _IGNORED,
                ]  # the last prompt token foretells the first word
                positions += range(start, start + len(after) + len(text))
                group += [number + 1] * (len(after) + len(text))
            rows.append((ids, targets, positions, group))
        longest = max(len(ids) for ids, *_ in rows)
        fill = (self.tokenizer.pad_token_id, _IGNORED, 0, -1)
        tensors = [torch.tensor([[*row[i], *[fill[i]] * (longest - len(row[i]))] for row in rows]) for i in range(4)]
        return Packed(
            tensors[0], tensors[1], tensors[2], tensors[3], slice(len(self.before), len(self.before) + self.block)
        )


def loss(logits: Tensor, packed: Packed) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy of all tokens, and again of each answer's first one, which names the thing; and share of right
    tokens. `logits` (K, V) as the speaker gives them."""
    known = packed.targets != _IGNORED
    targets = packed.targets[known]
    starts = (packed.targets.roll(1, 1) == _IGNORED)[known]
    right = (logits.argmax(-1) == targets).float().mean()
    each = functional.cross_entropy(logits, targets)
    return each + 0.6 * functional.cross_entropy(logits[starts], targets[starts]), right


def regions(rng: Generator, tower: Tower, batch: Batch, precision: str = "float32") -> Decoded:
    """The frozen SAM 2's answer to a random prompt for each region of a batch, through the same tower that serves;
    `precision` of its products."""
    with segmentation.arithmetic(tower.device, precision), segmentation.watching():
        return _regions(rng, tower, batch)


def _regions(rng: Generator, tower: Tower, batch: Batch) -> Decoded:
    sam, count = tower.sam, len(batch.masks) // len(batch.pictures)
    plan = str(rng.choice(list(_PLANS), p=list(_PLANS.values())))
    levels = list(sam.forward_image(batch.pictures)["backbone_fpn"])
    wide = [level.repeat_interleave(count, 0) for level in levels]
    ready = [*wide[:-1], wide[-1] + sam.no_mem_embed.view(1, -1, 1, 1)]
    coords, labels, dense = segmentation.prompt(rng, sam, ready, batch.masks, plan)
    side = tower.image_size
    return tower.decode(Embedding(side, side, wide[-1], (wide[0], wide[1])), coords, labels, dense)


def qwen_config(folder: Path, sizes: dict[str, int]) -> Qwen2Config:
    """Qwen2 of the given sizes for the tokenizer in `folder`."""
    tokenizer = Qwen2Tokenizer.from_pretrained(folder)
    settings: dict[str, Any] = dict(
        vocab_size=len(tokenizer),
        tie_word_embeddings=True,
        rope_theta=1e6,
        max_position_embeddings=32768,
        use_sliding_window=False,
        bos_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **sizes,
    )
    config = Qwen2Config(**settings)
    config._attn_implementation = "sdpa"
    return config


def optimizers(speaker: Speaker, rate: float) -> list[torch.optim.Optimizer]:
    """AdamW; the perceiver, which is wide, at half the rate. Each group knows its peak as `peak`."""
    wide = list(speaker.vision.vision_resampler.parameters())
    taken = set(map(id, wide))
    rest = [p for p in speaker.parameters() if id(p) not in taken]
    groups = [{"params": wide, "peak": 0.5 * rate}, {"params": rest, "peak": rate}]
    return [torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.02, fused=True)]
