"""Writing the trained parts as a checkpoint folder in the released PAM layout."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import Qwen2Config

from tiny.language import Speaker
from tiny.looks import UNKNOWN
from tiny.texts import label

LIMIT = 30_000_000
"""Bytes that the weights may take together."""

_SHORT = re.compile(
    r"model\.vision_resampler\.proj\.weight"
    r"|(model\.vision_resampler|sam_mask_decoder\.transformer)\.layers\.\d\.mlp\.layers\.\d\.weight"
)
"""Kept in float8 (e4m3) instead of float16: a projection that is read for the later frames of clips only, and what is
wide in the decoder and the perceiver, where it changes no figure in the third digit."""


def export(
    folder: Path,
    sam: dict[str, Tensor],
    speaker: Speaker,
    config: Qwen2Config,
    max_new_tokens: int = 64,
    unsure: float | None = None,
) -> int:
    """Write model.safetensors, sam2.safetensors, config.json and generation_config.json; returns the weights' bytes.

    Weights are float16, the widest matrices float8.

    `unsure`, 0…1, is the probability below which the likeliest word counts as a guess and "object" is said instead.

    Raises ValueError when a weight is not finite in float16 or the weights take more than LIMIT bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"model.{name}": value for name, value in speaker.vision.state_dict().items()}
    tensors |= {name: value for name, value in speaker.qwen.state_dict().items() if name != "lm_head.weight"}  # tied
    _save(tensors, folder / "model.safetensors")
    _save(sam, folder / "sam2.safetensors")
    _json(folder / "config.json", _pam_config(config))
    _json(
        folder / "generation_config.json",
        {
            "bos_token_id": config.bos_token_id,
            "pad_token_id": config.bos_token_id,
            "eos_token_id": [config.eos_token_id],
            "do_sample": False,
            "repetition_penalty": 1.0,
            "max_new_tokens": max_new_tokens,
            **_unsure(unsure),
        },
    )
    taken = sum((folder / name).stat().st_size for name in ("model.safetensors", "sam2.safetensors"))
    if taken > LIMIT:
        raise ValueError(
            f"the weights take {taken:,} bytes, more than {LIMIT:,}: choose a smaller language model or SAM 2"
        )
    return taken


def _save(tensors: dict[str, Tensor], file: Path) -> None:
    half = {name: value.detach().to(torch.float16).contiguous() for name, value in tensors.items()}
    for name, value in half.items():
        if not torch.isfinite(value).all():
            raise ValueError(f"{name} has values that are not finite in float16: the training has diverged")
    half |= {name: half[name].to(torch.float8_e4m3fn) for name in half if _SHORT.fullmatch(name)}
    save_file(half, file, metadata={"format": "pt"})
    file.chmod(0o644)  # safetensors writes files that only their owner may read


def _unsure(threshold: float | None) -> dict[str, object]:
    """As `model.language.unsure` reads it: the class alone, the class within an English sentence, and in Chinese."""
    if threshold is None:
        return {}
    labels = [label(UNKNOWN), f" {label(UNKNOWN)}", label(UNKNOWN, "zh")]
    return {"unsure": {"threshold": threshold, "labels": labels}}


def _pam_config(config: Qwen2Config) -> dict[str, object]:
    """config.json as PAM's own training writes it."""
    return {
        "architectures": ["LlavaQwenForCausalLM"],
        "model_type": "llava_qwen",
        "attention_dropout": 0.0,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": 32768,
        "max_window_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_hidden_layers": config.num_hidden_layers,
        "num_key_value_heads": config.num_key_value_heads,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_scaling": None,
        "rope_theta": 1000000.0,
        "sliding_window": 32768,
        "use_sliding_window": False,
        "tie_word_embeddings": True,
        "torch_dtype": "float16",
        "use_cache": True,
        "vocab_size": config.vocab_size,
        "transformers_version": "4.40.0",
        "mm_vision_tower": "pallas/sam2.1-efficientnet-lite2",
        "mm_projector_type": "mlp2x_gelu",
        "mm_hidden_size": 256,
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "mm_tunable_parts": "mm_vision_resampler,mm_mlp_adapter,mm_language_model",
        "tokenizer_padding_side": "right",
        "tokenizer_model_max_length": 12288,
        "use_pos_skipping": False,
    }


def _json(file: Path, value: object) -> None:
    file.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
