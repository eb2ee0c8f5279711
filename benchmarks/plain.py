"""The plain way, as the reference does it: whole prompts, transformers' own generate(), torch's own kernels.

Benchmarks compare with it, and tests hold the product to its answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from unittest import mock

import torch
from sam2.modeling.backbones.hieradet import MultiScaleAttention
from sam2.modeling.sam2_utils import MLP
from torch import nn
from transformers import GenerationConfig

from model import PerceiveAnything, Region, Sampling, Segment
from model.compute.linear import FrugalAttention, FrugalMLP, QuickLinear
from model.language.qwen import Answer, Language, seeded

_TORCHS: dict[type[nn.Module], type[nn.Module]] = {
    QuickLinear: nn.Linear,
    FrugalMLP: MLP,
    FrugalAttention: MultiScaleAttention,
}


def blocks(pam: PerceiveAnything, regions: Sequence[Segment] | Sequence[Region]) -> torch.Tensor:
    """The image blocks of regions: (R, K, hidden)."""
    return pam.vision.blocks([region.features for region in regions])


@torch.no_grad()
def embed(language: Language, block: torch.Tensor, instruction: str) -> torch.Tensor:
    """The whole prompt as vectors: (L, hidden) from an image block (K, hidden)."""
    table = language.model.get_input_embeddings()
    before, after = (table(torch.tensor(ids, device=block.device)) for ids in language.prompt_ids(instruction))
    return torch.cat([before, block.to(before.dtype), after])[: language.max_vectors]


@torch.no_grad()
def generate(language: Language, prompts: Sequence[torch.Tensor], sampling: Sampling) -> list[Answer]:
    """Answer a batch of whole prompts (L_i, hidden); shorter ones are padded on the left with a mask."""
    embeds, attention = _left_pad(prompts)
    ends = language.end_ids()
    padding = language.tokenizer.pad_token_id
    config = GenerationConfig(
        max_new_tokens=sampling.most("any"),
        do_sample=sampling.temperature > 0,
        # not None, for which generate() would take the end tokens of the model's own configuration
        eos_token_id=ends or [int(language.model.config.vocab_size)],
        pad_token_id=padding if padding is not None else (ends or [0])[0],
        use_cache=True,
        return_dict_in_generate=True,
        output_logits=True,
    )
    if sampling.temperature > 0:
        config.temperature = sampling.temperature
        # the authors run with top_p None and leave the folder's top_k in force
        config.top_p = 1.0
        config.top_k = language.defaults.top_k or 0
    with seeded(sampling, embeds.device):
        out = language.model.generate(
            inputs_embeds=embeds,
            attention_mask=attention,
            generation_config=config,
            # not through the config: generate() would count left padding as generated tokens
            logits_processor=language.processors(sampling),
        )
    logprobs = torch.stack(
        [
            torch.log_softmax(step.float(), dim=-1).gather(1, ids[:, None])[:, 0]
            for step, ids in zip(out.logits, out.sequences.T, strict=True)
        ],
        dim=1,
    )
    return [language.finished(ids, row) for ids, row in zip(out.sequences.tolist(), logprobs.tolist(), strict=True)]


def _left_pad(prompts: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors (B, L, hidden) and mask (B, L) int64 from prompts of any lengths."""
    longest = max(len(prompt) for prompt in prompts)
    embeds = prompts[0].new_zeros(len(prompts), longest, prompts[0].shape[1])
    attention = torch.zeros(len(prompts), longest, dtype=torch.int64, device=embeds.device)
    for row, prompt in enumerate(prompts):
        embeds[row, longest - len(prompt) :] = prompt
        attention[row, longest - len(prompt) :] = 1
    return embeds, attention


@contextmanager
def endless(language: Language) -> Iterator[None]:
    """No token ends an answer while the block runs, so that all have the same length."""
    with mock.patch.object(language, "end_ids", return_value=[]):
        yield


@contextmanager
def torchs_kernels(pam: PerceiveAnything) -> Iterator[None]:
    """The layers of a model compute as torch does by itself while the block runs."""
    changed = [
        (layer, type(layer))
        for module in (pam.tower.sam, pam.vision, pam.language.model)
        for layer in module.modules()
        if type(layer) in _TORCHS
    ]
    for layer, kind in changed:
        layer.__class__ = _TORCHS[kind]
    try:
        yield
    finally:
        for layer, kind in changed:
            layer.__class__ = kind
