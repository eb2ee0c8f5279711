"""Texts about a clip: one block of vectors for its frames, and the questions behind it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from model.language.prefix import Prefix
from model.language.qwen import Language, Sampling
from model.perceiver import Vision
from model.values.region import RegionFeatures, Text, Texts
from model.values.task import VideoTask, video_instruction


@torch.no_grad()
def clip_block(vision: Vision, clip: Sequence[RegionFeatures]) -> torch.Tensor:
    """The vectors that stand for a clip in the prompt: (K, hidden), see `Vision.clip`."""
    return vision.clip(torch.stack([f.image for f in clip]), torch.stack([f.mask_tokens for f in clip]))


def read_clip(vision: Vision, model: Language, clip: Sequence[RegionFeatures]) -> Prefix:
    """Read a clip's prompt once, for any number of questions."""
    return model.read(clip_block(vision, clip)[None])


def describe_clip(
    model: Language,
    clip: Prefix,
    tasks: Sequence[VideoTask | str],
    language: str,
    sampling: Sampling,
    previous: str = "",
) -> Texts:
    """The texts about one region through a clip."""
    instructions = [video_instruction(task, language, previous) for task in tasks]
    if not instructions:
        return {}
    (answers,) = model.answer(clip, instructions, sampling)
    return {
        task: Text(task, language, a.string, a.token_ids, a.mean_logprob, a.finished)
        for task, a in zip(tasks, answers, strict=True)
    }
