"""What SAM 2 remembers of an object: a bounded window of frames, and the frames that a person marked."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from sam2.modeling.sam2_base import SAM2Base
from sam2.modeling.sam2_utils import select_closest_cond_frames
from torch.nn import functional

from model.compute.precision import full_float32
from model.sam.tower import Decoded, Tower
from model.values.embedding import Embedding

MARKED_FRAMES = 8
"""Marked frames that are looked at together, the nearest ones; SAM 2 itself would look at all, without a bound."""


@dataclass(frozen=True, eq=False)
class Memory:
    """One object on one frame.

    Attributes:
        features: (1, 64, n, n); None where the frame is too far away to be looked at again.
        pointer: (1, 256), SAM 2's object pointer.
    """

    features: torch.Tensor | None
    pointer: torch.Tensor


@dataclass
class Bank:
    """One object's memories by frame.

    Attributes:
        marked: of frames with a prompt.
        recent: of tracked frames.
    """

    marked: dict[int, Memory] = field(default_factory=dict)
    recent: dict[int, Memory] = field(default_factory=dict)


Look = tuple[tuple[int, ...], tuple[int, ...]]
"""The marked and the recent frames that a frame looks back at: objects that share them go through SAM 2 together."""


class Remembering:
    """SAM 2's memory attention and memory encoder for one video.

    Args:
        tower: SAM 2.
        frames: of the video, which bounds how many pointers are used.
    """

    def __init__(self, tower: Tower, frames: int) -> None:
        self._tower = tower
        self._sam: SAM2Base = tower.sam
        self._frames = frames
        self._reach = (self._sam.num_maskmem - 1) * self._sam.memory_temporal_stride_for_eval
        self._pointers = self._sam.max_obj_ptrs_in_encoder - 1

    def look(self, bank: Bank, frame: int, backward: bool) -> Look:
        """The frames that an object's memories are taken from at a frame."""
        step = 1 if backward else -1
        near = (frame + step * i for i in range(1, self._pointers + 1))
        return tuple(bank.marked), tuple(f for f in near if f in bank.recent)

    @torch.no_grad()
    @full_float32
    def attend(
        self, embedding: Embedding, banks: Sequence[Bank], look: Look, frame: int, backward: bool
    ) -> torch.Tensor:
        """The frame's features with the memories of B objects in them: (B, 256, n, n) float32."""
        closest, rest = select_closest_cond_frames(frame, dict.fromkeys(look[0]), MARKED_FRAMES)
        marked = {f: self._joined([bank.marked[f] for bank in banks]) for f in closest}
        recent = {f: self._joined([bank.recent.get(f) or bank.marked[f] for bank in banks]) for f in (*rest, *look[1])}
        features = embedding.features.float().expand(len(banks), -1, -1, -1)
        with self._lower():
            return with_memories(self._sam, features, marked, recent, frame, self._frames, backward).float()

    @torch.no_grad()
    @full_float32
    def encode(
        self, embedding: Embedding, decoded: Decoded, prompted: bool, masks: torch.Tensor | None = None
    ) -> list[Memory]:
        """The memories of B objects on a frame.

        Args:
            embedding: of the frame.
            decoded: of the B objects.
            prompted: a person marked them here: the masks are taken as they are, not as probabilities.
            masks: (B, 4n, 4n) logits instead of the decoder's, where a person gave them.
        """
        logits = decoded.mask_logits if masks is None else masks
        scores = decoded.object_scores if masks is None else torch.ones_like(decoded.object_scores)
        seen = embedding.features.float().expand(len(logits), -1, -1, -1)
        with self._lower():
            features, _ = remembered(self._sam, seen, logits, scores, prompted)
        # PAM keeps the memories of prompted frames alone in bfloat16
        features = features.to(torch.bfloat16 if prompted else torch.float32)
        pointers = pointer(self._sam, decoded.mask_tokens[:, 1], scores)
        return [Memory(features[i : i + 1].clone(), pointers[i : i + 1].clone()) for i in range(len(logits))]

    def forget(self, bank: Bank, frame: int, backward: bool, near: int | None) -> None:
        """Drop what no later frame looks at.

        Args:
            bank: of one object.
            frame: the newest one.
            backward: the direction.
            near: memories around this frame stay, for a second pass from there.
        """
        for old, memory in list(bank.recent.items()):
            away = old - frame if backward else frame - old
            if near is not None:
                away = min(away, abs(old - near))
            if away > self._pointers:
                del bank.recent[old]
            elif away > self._reach and memory.features is not None:
                bank.recent[old] = replace(memory, features=None)

    def _joined(self, memories: Sequence[Memory]) -> dict[str, Any]:
        """The memories of B objects on one frame, as SAM 2 keeps them."""
        features = [memory.features for memory in memories if memory.features is not None]
        joined = torch.cat(features) if features else None
        position = None if joined is None else self._sam.memory_encoder.position_encoding(joined).to(joined.dtype)
        return {
            "maskmem_features": joined,
            "maskmem_pos_enc": [position],
            "obj_ptr": torch.cat([memory.pointer for memory in memories]),
        }

    def _lower(self) -> Any:
        dtype = self._tower.dtype
        return torch.autocast(self._tower.device.type, dtype) if dtype != torch.float32 else nullcontext()


Remembered = dict[int, dict[str, Any]]
"""By frame what SAM 2 keeps of it: `maskmem_features`, `maskmem_pos_enc` and `obj_ptr`."""


def with_memories(
    sam: SAM2Base,
    features: torch.Tensor,
    marked: Remembered,
    recent: Remembered,
    frame: int,
    frames: int,
    backward: bool = False,
) -> torch.Tensor:
    """A frame's features (B, 256, n, n) with what is remembered of marked and recent frames in them."""
    position = sam.image_encoder.neck.position_encoding(features)
    seen: torch.Tensor = sam._prepare_memory_conditioned_features(
        frame_idx=frame,
        is_init_cond_frame=False,
        current_vision_feats=[_flat(features)],
        current_vision_pos_embeds=[_flat(position)],
        feat_sizes=[features.shape[-2:]],
        output_dict={"cond_frame_outputs": marked, "non_cond_frame_outputs": recent},
        num_frames=frames,
        track_in_reverse=backward,
    )
    return seen


def remembered(
    sam: SAM2Base, features: torch.Tensor, logits: torch.Tensor, scores: torch.Tensor, prompted: bool
) -> tuple[torch.Tensor, Any]:
    """What SAM 2's memory encoder makes of a frame: features (B, 64, n, n) and their position encoding.

    Args:
        sam: SAM 2.
        features: (B, 256, n, n), the frame's own.
        logits: (B, 4n, 4n), the masks.
        scores: (B,), of the objects.
        prompted: the masks are taken as they are, not as probabilities.
    """
    size = sam.image_size
    full = functional.interpolate(logits[:, None], (size, size), mode="bilinear", align_corners=False)
    found: tuple[torch.Tensor, Any] = sam._encode_new_memory(
        current_vision_feats=[_flat(features)],
        feat_sizes=[features.shape[-2:]],
        pred_masks_high_res=full,
        object_score_logits=scores[:, None],
        is_mask_from_pts=prompted,
    )
    return found


def pointer(sam: SAM2Base, tokens: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """SAM 2's object pointers (B, 256) of mask tokens (B, 256), replaced where no object is seen, by scores (B,)."""
    found: torch.Tensor = sam.obj_ptr_proj(tokens)
    seen = (scores.sigmoid() if sam.soft_no_obj_ptr else (scores > 0).float())[:, None]
    if sam.fixed_no_obj_ptr:
        found = seen * found
    return found + (1 - seen) * sam.no_obj_ptr


def _flat(features: torch.Tensor) -> torch.Tensor:
    """(B, C, n, n) → (n·n, B, C)."""
    return features.flatten(2).permute(2, 0, 1)
